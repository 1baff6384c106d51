"""Mistakes in sweep files: all named at once, each with its line and a way out."""

import pytest
from sweep_files import MINIMAL, parse, problems

from data_pipeline.errors import RequestError
from data_pipeline.names import ALSO
from sweeps.file import config, plugins
from trainables import protocol
from trainables import spec as models
from trainables.posthoc import POSTHOC
from trainables.recipe import Recipe


def test_all_mistakes_are_reported_at_once_with_their_lines():
    text = """name: a/b
datasets: [pbmc68k_redu, {path: my.h5ad, lable: x}, {path: y.h5ad, label: c, values: log2}]
gene: all
splits: {seeds: [0, -1], test: 0.9, validation: 0.3, tset: 1}
skews: [naturel, {kind: exponential, ratoi: 3}, {kind: rarefy, cells: 1.5}]
strategies: oversample
losses: [{kind: focal, gamma: big}]
models:
  scgtp: {}
  scgpt: {epoch: 3, learning_rate: fast, weights: /nowhere, dropout: 2}
  majority: {weights: x}
seeds: [1, 1]
defects: [select_on_tset]
resources: {scgpt: {gpu: some}, foo: {cpu: 1}}
exclude: [{strategy: oversampel}, {bla: 1}]
"""
    said = problems(text)
    expected = [
        "sweep.yaml:1: name: 'a/b' is a path, not a name",
        "sweep.yaml:2: datasets[0]: unknown dataset 'pbmc68k_redu'; did you mean pbmc68k_reduced?",
        "sweep.yaml:2: datasets[1].lable: unknown key 'lable'; did you mean label?",
        "sweep.yaml:2: datasets[2].values: kind 'log2' is unknown",
        "sweep.yaml:3: gene: unknown key 'gene'; did you mean genes?",
        "sweep.yaml:4: splits.seeds[1]: -1 must be greater than or equal to 0",
        "sweep.yaml:4: splits.tset: unknown key 'tset'; did you mean test?",
        "sweep.yaml:4: splits: test 0.9 and validation 0.3 leave nothing to train on",
        "sweep.yaml:5: skews[0]: unknown skew 'naturel'; did you mean natural?",
        "sweep.yaml:5: skews[1].ratoi: unknown parameter of exponential 'ratoi'; did you mean ratio?",
        "sweep.yaml:5: skews[2]: rarefy needs class",
        "sweep.yaml:5: skews[2].cells: 1.5 must be an integer",
        'sweep.yaml:6: strategies: "oversample" must be a list',
        'sweep.yaml:7: losses[0].gamma: "big" must be a number',
        "sweep.yaml:9: models.scgtp: unknown model 'scgtp'; did you mean scgpt?",
        "sweep.yaml:10: models.scgpt.epoch: unknown setting of scgpt 'epoch'; did you mean epochs?",
        "sweep.yaml:10: models.scgpt.weights: the folder /nowhere is not there",
        "sweep.yaml:10: models.scgpt.dropout: 2 must be less than 1",
        'sweep.yaml:10: models.scgpt.learning_rate: "fast" must be a number',
        "sweep.yaml:11: models.majority.weights: majority has no pretrained weights",
        "sweep.yaml:12: seeds: seed 1 is given twice",
        "sweep.yaml:13: defects[0]: unknown defect 'select_on_tset'; did you mean select_on_test?",
        "sweep.yaml:14: resources.scgpt.gpu: \"some\" must be a number, or must be 'auto'",
        "sweep.yaml:14: resources.foo: unknown model in this sweep 'foo'",
        "sweep.yaml:15: exclude[0].strategy: unknown strategy 'oversampel'; did you mean oversample?",
        "sweep.yaml:15: exclude[1].bla: unknown axis 'bla'; known: dataset, split, skew, strategy, loss, model, seed",
    ]
    for line in expected:
        assert any(one.startswith(line) for one in said), f"missing: {line}\n" + "\n".join(said)
    assert len(said) == len(expected)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: [a", "sweep.yaml:1: not valid YAML: "),
        ("name: a\n\tdatasets: 3", "sweep.yaml:2: not valid YAML: .*spaces, not tabs"),
        ("just words", "sweep.yaml:1: a sweep file is a mapping"),
        ("", "sweep.yaml:1: a sweep file is a mapping"),
        ("name: x\nname: y", "sweep.yaml:2: name: given twice, first in line 1; keep one"),
        ("name: 2024-01-01", "sweep.yaml:1: 2024-01-01 would be read as a date; put it in quotes"),
        ("a: &a [*a]", "sweep.yaml:1: not valid YAML: aliases unfold without end"),
        ("? [a]\n: 1", "sweep.yaml:1: not valid YAML: a key must be a word"),
    ],
)
def test_what_is_no_sweep_file_is_refused(text, line):
    with pytest.raises(RequestError, match=line):
        parse(text)


def test_a_tag_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    said = problems(f"{MINIMAL}seeds: !!python/object/apply:os.mkdir ['{mark}']")
    assert said == [
        "sweep.yaml:5: the tag !python/object/apply:os.mkdir is not allowed: "
        "a sweep file holds plain values and never runs code"
    ]
    assert not mark.exists()


def test_aliases_that_unfold_to_billions_are_refused():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    assert (
        problems(bomb) == ["sweep.yaml:7: not valid YAML: aliases unfold without end"] or "unfold" in problems(bomb)[0]
    )


def test_anchors_and_merges_are_understood():
    text = """
name: small
datasets: [pbmc68k_reduced]
models:
  scgpt: &shared {epochs: 3, size: tiny}
  geneformer: {<<: *shared, epochs: 5}
"""
    assert [(model.recipe["epochs"], model.options["size"]) for model in parse(text).models] == [
        (3, "tiny"),
        (5, "tiny"),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("splits: {test: 1.5}", r"splits.test: 1.5 must be less than 1"),
        ("splits: {test: 0}", r"splits.test: 0 must be greater than 0"),
        ("splits: {seeds: []}", r"splits.seeds: \[\] is empty; give at least one value"),
        ("splits: {seeds: [0.5]}", r"splits.seeds\[0\]: 0.5 must be an integer"),
        ("seeds: [true]", r"seeds\[0\]: true must be an integer"),
        ('seeds: ["1"]', r"seeds\[0\]: \"1\" must be an integer"),
        ("genes: {select: hvg, n: 0}", r"genes.n: 0 must be greater than or equal to 2"),
        ("genes: {n: 20}", r"genes.n: goes with `select: hvg`; without it all genes are taken"),
        (
            "genes: {fit: natural}",
            r"genes.fit: no more than medians of genes, of geneformer without weights, are fitted",
        ),
        ("genes: most", r"genes.select: \"most\" must be 'all' or 'hvg'"),
        ("strategies: [{smote: {cells: 9}}]", r"strategies\[0\]: .* write {kind: smote, ...}"),
        ("skews: [{kind: rarefy, cells: 9}]", r"skews\[0\]: rarefy needs class: text or whole number"),
        ("resources: {scgpt: 3}", r"resources.scgpt: 3 must be a mapping"),
        ("skews: [{ratio: 3}]", r"skews\[0\]: .* is neither a name nor a mapping with `kind:`; known: natural"),
        ("skews: [natural, natural]", r"skews\[1\]: natural is given twice"),
        ("tracking: {checkpoints: uplaod}", r"tracking.checkpoints: \"uplaod\" must be 'upload', 'link' or 'none'"),
        ("exclude: [{}]", r"exclude\[0\]: an empty rule would leave out everything"),
        (
            "skews: [{kind: match, counts: zheng68k, scaled: true, total: 50}]",
            r"skews\[0\].scaled: `total` keeps the pro",
        ),
        ("losses: [{kind: ldam, reweight_from: 1, beta: 0.9}]", r"losses\[0\].beta: types are never weighted where"),
        ("losses: [{kind: ldam, reweight_from: [0.8, 1], beta: [0.9, 0.99]}]", r"losses\[0\].beta: types are never"),
        (
            "defects: [scbert_double_log]",
            r"defects\[0\]: scbert_double_log is of scbert, and none is in this sweep; lea",
        ),
        ("defects: [scvi_unscaled]", r"defects\[0\]: scvi_unscaled is of the strategy scvi, and none is in this sweep"),
        ("skews: [{kind: exponential, ratio: .inf}]", r"skews\[0\].ratio: Infinity must be a finite number"),
        (
            "losses: [{kind: focal, gamma: -1.0}]",
            r"losses\[0\]: focal: gamma is -1.0, it must be 0 or more; 2 is usual",
        ),
        (
            "strategies: [none, {kind: smote, cells: -4}]",
            r"strategies\[1\]: cells -4 is below 1; it is the size that s",
        ),
        ("strategies: [{kind: tomek, components: [9, 0]}]", r"strategies\[0\]: tomek: components 0 is below 1"),
        ("posthoc: [temprature]", r"posthoc\[0\]: unknown adjustment 'temprature'; did you mean temperature\?"),
        ("strategies: [{kind: none, cells: 3}]", r"unknown parameter of none 'cells'; it takes none"),
        ("max_failures: -1", r"max_failures: -1 must be greater than or equal to 0"),
        ("checkpoint_every: 0", r"checkpoint_every: 0 must be greater than or equal to 1, or must be 'auto'"),
    ],
)
def test_wrong_values_are_named(line, said):
    with pytest.raises(RequestError, match=r"sweep.yaml:5: .*" + said):
        parse(MINIMAL + line)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("{scgpt: 3}", "models.scgpt: 3 must be a mapping"),
        ("{}", "models: {} is empty; give at least one value"),
        ("scgpt", 'models: "scgpt" must be a mapping, or must be a list'),
        ("[majority]\ngenes: 2000", "genes: 2000 must be a text, or must be a mapping"),
    ],
)
def test_a_wrong_shape_is_said_once(models, said):
    assert [one.split(": ", 1)[1] for one in problems(f"name: a\ndatasets: [ms]\nmodels: {models}\n")] == [said]


@pytest.mark.parametrize("setting", ["scgpt: {weight_decay: .inf}", "linear_svm: {strengths: [.inf]}"])
def test_settings_are_finite(setting):
    (said,) = problems(MINIMAL.replace("scgpt: {epochs: 3}", setting))
    assert said.endswith("Infinity must be a finite number")


def test_what_has_an_effect_in_some_of_an_axis_is_not_refused():
    text = (
        "losses: [{kind: ldam, reweight_from: [0.8, 1], beta: 0.9}]\nskews: [{kind: match, counts: zheng68k, total: 9}]"
    )
    assert len(parse(MINIMAL + text).losses) == 2
    parse(MINIMAL.replace("majority", "geneformer") + "genes: {fit: natural}")


def test_defects_are_all_or_some():
    (said,) = problems(MINIMAL + "protocol: paper\ndefects: [scgpt_unshuffled]")
    assert said.endswith("defects: `protocol: paper` has all of them; leave one of the two out")


@pytest.mark.parametrize(
    ("model", "setting", "defect"),
    [
        ("geneformer", "column_tokens: true", "geneformer_column_tokens"),
        ("scbert", "double_log: true", "scbert_double_log"),
        ("scbert", "misaligned_gene2vec: true", "scbert_misaligned_gene2vec"),
        ("scbert", "stabiliser: batch", "scbert_batch_stabiliser"),
        ("scbert", "budget: epochs, carry_accumulation: true", "scbert_owed_steps"),
    ],
)
def test_a_published_defect_can_be_had_by_its_name_alone(model, setting, defect):
    """As a plain option it ran without the tag that every table goes by."""
    (said,) = problems(MINIMAL.replace("{scgpt: {epochs: 3}, majority: {}}", f"{{{model}: {{{setting}}}}}"))
    assert f"write `defects: [{defect}]` beside `models:`" in said and said.startswith("sweep.yaml:4: models.")
    (trial,) = parse(
        MINIMAL.replace("{scgpt: {epochs: 3}, majority: {}}", f"{{{model}: {{}}}}\ndefects: [{defect}]")
    ).trials()
    assert trial.tags()["cellskew.defects"] == defect
    settings = trial.described["options"] | trial.described["recipe"]
    assert list(protocol.untagged(model, settings).values()) == [defect]


def test_every_option_that_calls_itself_a_defect_is_one_of_protocols():
    for name in models.names():
        for option, field in models.get(name).options.model_fields.items():
            if (field.description or "").startswith("defect"):
                assert option in protocol.untagged(name, {option: True})


def test_a_recipe_written_as_a_part_of_a_model_is_told_where_its_settings_stand():
    (said,) = problems(MINIMAL.replace("scgpt: {epochs: 3}", "scgpt: {recipe: {epochs: 3}}"))
    assert said.endswith("stand beside the model's options: write `scgpt: {epochs: 3}`") and "did you mean" not in said


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("models: {svm: {}}", "linear_svm"),
        ("models: {a: {model: SVC}}", "linear_svm"),
        ("models: [lr]", "logistic_regression"),
        ("models: [xgbost]", "gradient_boosting"),
        ("models: [nearest-neighbors]", "knn"),
        ("models: {scgpt: {lr: 0.1}}", "learning_rate"),
        ("models: {knn: {k: 5}}", "neighbours"),
        ("models: {logistic_regression: {C: 1}}", "strengths"),
        ("models: [majority]\nstrategies: [upsample]", "oversample"),
        ("models: [majority]\nstrategies: [downsample]", "undersample"),
        ("models: [majority]\nlosses: [ce]", "cross_entropy"),
        ("models: [majority]\nposthoc: [saerens]", "prior_shift"),
    ],
)
def test_what_the_field_calls_it_leads_to_the_name_here(line, meant):
    (said,) = problems(f"name: small\ndatasets: [pbmc68k_reduced]\n{line}\n")
    assert f"; did you mean {meant}? " in said


def test_every_word_of_the_field_means_something_here():
    kinds = [registry for _, registry, _, _ in plugins.registries()]
    settings = {key for name in models.names() for key in models.get(name).options.model_fields}
    there = {*models.names(), *POSTHOC, *Recipe.model_fields, *settings}.union(*kinds)
    assert set(ALSO) <= there and not there & {word for words in ALSO.values() for word in words} - {"scvi"}


def test_of_many_settings_only_the_nearest_are_listed():
    (said,) = problems(MINIMAL.replace("epochs: 3", "learning_rat: 3"))
    assert "did you mean learning_rate?" in said and "docs/sweep-file.md" in said and "warmup" not in said


def test_missing_keys_are_named():
    assert problems("seeds: [0]") == [
        "sweep.yaml:1: name: is missing",
        "sweep.yaml:1: datasets: is missing",
        "sweep.yaml:1: models: is missing",
    ]


@pytest.mark.parametrize("name", ["../x", "a\\b", "", "x" * 101, "-x", "a b"])
def test_a_sweeps_name_is_no_path_and_no_sentence(name):
    with pytest.raises(RequestError, match="name: .* use up to 100 letters"):
        parse(MINIMAL.replace("small", f"'{name}'"))


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path):
    with pytest.raises(RequestError, match="there is no such file"):
        config.load(tmp_path / "none.yaml")
    with pytest.raises(RequestError, match="can't be read as a sweep file"):
        config.load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        RequestError, match="can't be read as a sweep file, which is YAML in UTF-8; `cellskew init FILE"
    ):
        config.load(tmp_path / "binary.yaml")


def test_a_blank_that_is_none_is_named_with_its_line():
    with pytest.raises(RequestError) as refused:
        parse(MINIMAL.replace("name: ", "name:\u00a0", 1))
    assert any("has U+00A0, which looks like a blank and is none" in said for said in refused.value.problems)


def test_weights_may_be_elsewhere_when_only_planning():
    text = MINIMAL.replace("epochs: 3", "weights: /nowhere/scGPT_human")
    assert parse(text, check_files=False).models[0].weights == "/nowhere/scGPT_human"
    with pytest.raises(
        RequestError, match="the folder /nowhere/scGPT_human is not there; leave `weights:` out to train"
    ):
        parse(text)


@pytest.mark.parametrize("line", ["posthoc: [conformal, conformal]", "controls: [shuffled_labels, shuffled_labels]"])
def test_a_word_that_stands_twice_in_a_list_is_refused(line):
    (said,) = problems(f"{MINIMAL}{line}\n")
    assert said.endswith(f"{line.split()[-1][:-1]} is given twice")
