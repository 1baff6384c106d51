# make demo: install and run the quickstart sweep, then print its answer.   make test: install and run the tests.
# PYTHON=python3.12 make demo picks an interpreter; ARGS="-k trial" make test passes options on to pytest, JOBS is how many
# processes the tests' files are shared out to (0: none beside pytest's own).
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
READY := $(VENV)/.ready-$(subst /,_,$(PYTHON))
PIP := $(VENV)/bin/pip install --quiet --constraint requirements-lock.txt

.PHONY: demo test lint docs figure clean

demo: $(READY)
	$(VENV)/bin/cellskew run sweeps/configs/quickstart.yaml

test: $(READY)-dev
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: $(READY)-dev
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

# What README and docs take from the code and from a run: sweep-file.md, the outputs shown; README's figure.
docs: $(READY)-dev
	$(VENV)/bin/python docs/reference.py
	$(VENV)/bin/python tests/docs/renew.py

figure: $(READY)
	$(VENV)/bin/cellskew run docs/figures/few-cells.yaml
	$(VENV)/bin/python benchmarks/figure.py few-cells

$(READY): pyproject.toml requirements-lock.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cellskew needs Python 3.11 or newer; $(PYTHON) is older. Try: PYTHON=python3.12 make demo"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -e .
	$(PIP) --no-deps scgpt==0.2.4
	@touch $@

$(READY)-dev: $(READY)
	$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV)
