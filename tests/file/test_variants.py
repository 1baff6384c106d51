"""`models:` of a sweep file: what a label stands for."""

import pytest
from pydantic import Field
from sweep_files import parse, problems

from sweeps.cluster import resources
from sweeps.file import reading_models
from trainables.spec import Options

HEAD = "name: small\ndatasets: [pbmc68k_reduced]\nsplits: {seeds: [0]}\n"


def sweep(models: str, more: str = ""):
    return parse(f"{HEAD}models: {{{models}}}\n{more}")


def test_a_label_stands_wherever_models_did_and_no_key_has_it():
    more = "resources: {wide: {cpu: 2}}\nexclude: [{model: plain, seed: 1}]\nseeds: [0, 1]\n"
    spec = sweep("plain: {model: scgpt}, wide: {model: scgpt, width: 32}, majority: {}", more)
    assert [(one.label, one.model) for one in spec.models] == [
        ("plain", "scgpt"),
        ("wide", "scgpt"),
        ("majority", "majority"),
    ]
    found = {trial.name: trial for trial in spec.trials()}
    assert len(found) == 5 and not any(name.startswith("plain") and name.endswith("1") for name in found)
    trial = found["wide·none·cross_entropy·natural·pbmc68k_reduced·s0·0"]
    assert (trial.label, trial.model, trial.resources.cpu) == ("wide", "scgpt", 2)
    tags = trial.tags()
    assert (tags["cellskew.model"], tags["cellskew.architecture"]) == ("wide", "scgpt")
    assert trial.config()["model"] == trial.params()["model"] == "scgpt"
    bare = {trial.key for trial in sweep("scgpt: {}").trials()}
    assert bare == {trial.key for trial in sweep("any-name.2: {model: scgpt}").trials()}


@pytest.mark.parametrize(
    "models, said",
    [
        ("one: {model: scgpt}, two: {model: scgpt, epochs: 15}", "models.two: means the same as one; leave one"),
        ("scgpt-head: {epochs: 3}", "unknown model 'scgpt-head'; did you mean scgpt?"),
        ("scgpt-head: {epochs: 3}", "scgpt-head: {model: NAME}"),
        ("mine: {model: scgtp}", "models.mine.model: unknown model 'scgtp'; did you mean scgpt?"),
        ("mine: {model: [scgpt]}", "models.mine.model: unknown model ['scgpt']"),
        ("a/b: {model: scgpt}", 'models.a/b: "a/b" is a path, not a name'),
        ("'a b': {model: scgpt}", 'models.a b: "a b" is no name for a model; use up to 100 letters'),
        ("a·b: {model: scgpt}", "is no name for a model"),
        ("scGPT: {model: majority}", "scGPT would be read as the model of that name, and is majority: call it"),
    ],
)
def test_labels_that_would_mislead_are_refused(models, said):
    assert any(said in one for one in problems(f"{HEAD}models: {{{models}}}\n")), problems(
        f"{HEAD}models: {{{models}}}\n"
    )


@pytest.mark.parametrize(
    "model, said",
    [
        ("scgpt, freeze: true", "m.freeze: freeze is gone: what is trained of any network is said by `train: all`"),
        ("geneformer, freeze_layers: 2", "m.freeze_layers: freeze_layers is gone"),
        ("scgpt, train: hed", "m.train: unknown choice 'hed'; did you mean head?"),
        ("scgpt, train: lora", "m.train: unknown choice 'lora'; known: all, published, head, or {lora: {rank: 8}}"),
        ("scgpt, train: {lara: {}}", "m.train.lara: unknown kind of adapter 'lara'; did you mean lora?"),
        ("scgpt, train: {lora: {rank: 0}}", "m.train.lora.rank: 0 must be greater than or equal to 1"),
        ("scgpt, train: {lora: {alfa: 3}}", "m.train.lora.alfa: unknown setting of lora 'alfa'; did you mean alpha?"),
        ("scgpt, train: {lora: {targets: [Wqv]}}", "m.train.lora.targets: unknown layer of scgpt 'Wqv'; did you mean"),
        ("scgpt, train: {lora: 3}", "m.train.lora: 3 must be"),
        ("scgpt, train: {}", "m.train: {} says nothing; use all, published, head, or {lora: {rank: 8}}"),
        ("mlp, hidden: []", "m.hidden: [] is empty; give at least one value"),
        ("scgpt, train: head", "m.train: head without weights trains on the features of a random network"),
        ("scbert, train: published", "m.train: published without weights trains on the features of a random network"),
        ("scgpt, train: {lora: {}}", "m.train: lora without weights trains on the features of a random network"),
        ("scgpt, random_features: true", "m.random_features: nothing random is frozen here"),
        ("scgpt, random_features: 3", "m.random_features: 3 must be true or false"),
        ("logistic_regression, train: head", "m.train: logistic_regression has nothing to freeze or adapt"),
    ],
)
def test_what_is_trained_is_asked_in_one_way(model, said):
    text = f"{HEAD}models: {{m: {{model: {model}}}}}\n"
    assert any(f"models.{said}" in one for one in problems(text)), problems(text)


def test_a_wrong_value_in_a_list_is_one_mistake():
    (said,) = problems(f"{HEAD}models: {{linear_svm: {{strengths: [0]}}}}\n")
    assert said.endswith("models.linear_svm.strengths: 0 must be greater than 0")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("knn, size: tiny", "m.size: size changes nothing about knn; leave it out"),
        ("majority, tune: {size: [tiny, small]}", "m.tune.size: unknown setting to tune 'size'"),
        ("scgpt, weights: W, size: official", "m.size: with `weights:` the files say it; leave size out"),
        ("geneformer, weights: W, tune: {size: [tiny, small]}", "m.tune.size: with `weights:` the files say it"),
        (
            "scgpt, weights: W, tune: {width: [8, 16]}",
            "m.tune.width: with `weights:` the files say it",
        ),
        ("knn, on: {model: scgpt, weights: W, size: tiny}", "m.on.size: with `weights:` the files say it"),
        ("scbert, gene_set: dataset", "m.gene_set: without `weights:` every gene of the dataset is known; leave gene"),
        ("geneformer, min_coverage: 0.5", "m.min_coverage: without `weights:` every gene of the dataset is known"),
        (
            "scbert, cache_gigabytes: 2",
            "m.cache_gigabytes: it keeps what never changes: say `fix_projections: true`, not",
        ),
        (
            "scbert, cache_gigabytes: 2, fix_projections: true",
            "m.cache_gigabytes: it keeps what frozen blocks make, with `train: head` or `published` alone; leave cache",
        ),
        ("scgpt, weights: W, train: head, dropout: 0.1", "m.dropout: what is frozen has none, nor has the classifier"),
        (
            "scgpt, width: 8, hidden: 8, num_layers: 1, num_heads: 2, size: tiny",
            "m.size: width, hidden, num_layers, nu",
        ),
        ("gradient_boosting, rounds: 5, patience: 9", "m.patience: in 5 rounds it can end nothing before the last"),
        ("scanvi, epochs: 9, labelled_epochs: 3, patience: 9", "m.patience: fewer epochs are trained than it waits"),
        ("mlp, schedule: constant, gamma: 0.5", "m.gamma: `schedule: constant` doesn't go by it; leave gamma out"),
        ("scgpt, tune: {schedule: [constant, step], gamma: [0.8, 0.9]}", "m.tune.gamma: `schedule: constant` doesn't"),
        ("knn, on: {model: scgpt, weights: W, dropout: 0}", "m.on.dropout: what stands under `on:` rests as a whole"),
        ("knn, on: {model: scgpt, weights: W, epochs: 2}", "m.on.epochs: nothing is trained there: leave epochs out"),
        (
            "knn, on: {model: scgpt, wieghts: W}",
            "m.on.wieghts: unknown setting of scgpt 'wieghts'; did you mean wei",
        ),
    ],
)
def test_what_would_change_nothing_is_refused(model, said):
    """Else two labels, or two settings to choose among, would be one model, trained twice."""
    found = problems(f"{HEAD}models: {{m: {{model: {model}}}}}\n", check_files=False)
    assert sum(f"models.{said}" in one for one in found) == 1, found


@pytest.mark.parametrize(
    "model",
    [
        "scgpt, tune: {schedule: [constant, step]}, gamma: 0.8",
        "scbert, weights: W, fix_projections: true, cache_gigabytes: 2, gene_set: dataset",
        "geneformer, weights: W, train: head, dropout: 0.4",
        "gradient_boosting, patience: 30",
        "scanvi, epochs: 90, labelled_epochs: 30, patience: 90",
        "scbert, weights: W, patience: 15",
    ],
)
def test_what_changes_one_of_its_settings_is_not_refused(model):
    parse(f"{HEAD}models: {{m: {{model: {model}}}}}\n", check_files=False)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("geneformer: {tune: {epochs: [2, 3]}}", "geneformer(epochs=3) means the same as geneformer(epochs=2), as def"),
        ("a: {model: geneformer, epochs: 2}, geneformer: {}", "geneformer: means the same as a, as defects of the pub"),
    ],
)
def test_what_defects_make_one_and_the_same_is_refused(models, said):
    """geneformer_undertrained trains for one epoch whatever the file says."""
    defects = ("protocol: paper", "defects: [geneformer_undertrained]")
    assert all(f"{said}" in problems(f"{HEAD}models: {{{models}}}\n{one}\n")[0] for one in defects)
    assert len({trial.key for trial in sweep(models).trials()}) == 2


def test_what_changes_nothing_beside_defects_is_refused():
    model = "{scbert: {weights: W, fix_projections: true, cache_gigabytes: 2, gene_set: dataset}}"
    plain = f"{HEAD}models: {model}\n"
    parse(plain, check_files=False)
    found = [one.split("models.scbert.")[1] for one in problems(f"{plain}protocol: paper\n", check_files=False)]
    assert [one.split(":")[0] for one in found] == ["cache_gigabytes", "gene_set"]
    assert all(
        one.endswith("with the defects of the published recipe it changes nothing; leave it out") for one in found
    )


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("m: {modle: scgpt}", "models.m.modle: unknown word of a model 'modle'; did you mean model?"),
        ("knn: {On: {obsm: X}}", "models.knn.On: unknown setting of knn 'On'; did you mean on?"),
        (
            "scgpt: {tunes: {epochs: [1, 2]}}",
            "models.scgpt.tunes: unknown setting of scgpt 'tunes'; did you mean tun",
        ),
        ("scgpt: {modell: geneformer}", "models.scgpt.modell: unknown setting of scgpt 'modell'; did you mean model?"),
        ("scgpt: {random_feature: true}", "unknown setting of scgpt 'random_feature'; did you mean random_features?"),
    ],
)
def test_words_that_make_variants_are_among_the_nearest(models, said):
    assert any(said in one for one in problems(f"{HEAD}models: {{{models}}}\n"))


def test_a_list_that_is_too_short_is_refused():
    class Ends(Options):
        ends: tuple[float, ...] = Field((0.0, 1.0), min_length=2)

    found, [(where, said)] = reading_models._checked(Ends, {"ends": [0.5]})
    assert found is None and where == ("ends",) and "at least 2 items" in said


def test_what_is_trained_stands_resolved_in_the_key():
    models = "a: {model: scgpt, train: {lora: {}}, random_features: true}, b: {model: scbert}, c: {model: geneformer}"
    nothing = sweep("a: {model: scgpt, train: {lora: }, random_features: true}").models[0]
    assert nothing.options["train"] == sweep(models).models[0].options["train"]
    found = {one.label: one.options["train"] for one in sweep(models).models}
    assert found["a"] == {"lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ("Wqkv",)}}
    assert (found["b"], found["c"]) == ("all", "all")
    assert "means the same" in problems(f"{HEAD}models: {{scgpt: {{}}, all: {{model: scgpt, train: all}}}}\n")[0]


def test_tuning_trains_every_combination_under_one_label():
    tuned = "scgpt: {size: tiny, tune: {learning_rate: [1.0e-4, 1.0e-3], n_bins: [5, 9, 17]}}, majority: {}"
    spec = sweep(tuned)
    trials = spec.trials()
    assert len(trials) == 7 == len({trial.key for trial in trials}) == len({trial.name for trial in trials})
    assert {trial.label for trial in trials[:6]} == {"scgpt"} and trials[6].tuned == {}
    first = trials[0]
    assert first.name == "scgpt(learning_rate=0.0001, n_bins=5)·none·cross_entropy·natural·pbmc68k_reduced·s0·0"
    assert (first.described["recipe"]["learning_rate"], first.described["options"]["n_bins"]) == (1e-4, 5)
    assert first.tags()["cellskew.tuned"] == "learning_rate=0.0001, n_bins=5"
    assert first.tags()["cellskew.tuned_over"] == "6" and "cellskew.tuned" not in trials[6].tags()
    alone = sweep("other: {model: scgpt, size: tiny, learning_rate: 1.0e-4, n_bins: 5}").trials()
    assert alone[0].key == first.key


@pytest.mark.parametrize(
    "said_of, tune, said",
    [
        ("", "{learning_rat: [1, 2]}", "tune.learning_rat: unknown setting to tune 'learning_rat'; did you mean learn"),
        ("", "{learning_rate: [0.1]}", "tune.learning_rate: [0.1] leaves nothing to choose; write `learning_rate:`"),
        ("", "{learning_rate: 0.1}", "tune.learning_rate: 0.1 is no list of values"),
        ("", "{learning_rate: [0.1, 0.1]}", "tune.learning_rate: [0.1, 0.1] has a value twice"),
        ("", "{learning_rate: [0.1, fast]}", 'tune.learning_rate: "fast" must be a number'),
        ("", "{train: [all, head]}", "tune.train: train is no setting but makes another variant"),
        ("", "{weights: [a, b]}", "tune.weights: weights is no setting but makes another variant"),
        ("", "[learning_rate]", 'tune: ["learning_rate"] is no mapping of settings to lists'),
        ("", "{}", "tune: {} is no mapping of settings to lists"),
        ("epochs: 2, ", "{epochs: [2, 3]}", "tune.epochs: epochs is given beside `tune:` as well"),
        ("model: majority, ", "{epochs: [2, 3]}", "tune.epochs: unknown setting to tune 'epochs'"),
    ],
)
def test_what_cannot_be_tuned_is_refused(said_of, tune, said):
    label = "m" if said_of.startswith("model") else "scgpt"
    text = f"{HEAD}models: {{{label}: {{{said_of}tune: {tune}}}}}\n"
    assert any(f"models.{label}.{said}" in one for one in problems(text)), problems(text)


def test_a_setting_that_is_another_label_is_refused_naming_both():
    models = "plain: {model: scgpt, epochs: 2}, tuned: {model: scgpt, tune: {epochs: [2, 3]}}"
    (said,) = problems(f"{HEAD}models: {{{models}}}\n")
    assert "models.tuned: tuned(epochs=2) means the same as plain; leave one of the two out" in said


def test_a_rule_that_names_what_labels_mean_is_told_their_names():
    models = "a: {model: scgpt, tune: {epochs: [2, 3]}}, b: {model: scgpt}, majority: {}"
    (said,) = problems(f"{HEAD}models: {{{models}}}\nexclude: [{{model: scgpt}}]\n")
    assert said.endswith("exclude[0].model: no model is called 'scgpt' here; name a, b")
    (said,) = problems(f"{HEAD}models: {{{models}}}\nresources: {{c: {{cpu: 2}}}}\n")
    assert said.endswith("unknown model in this sweep 'c'; known: a, b, majority")


@pytest.mark.parametrize("value, is_known", [("mine", True), ("geneformer", True), ("mine-2", False)])
def test_rules_name_models_by_label(value, is_known):
    text = f"{HEAD}models: {{mine: {{model: scgpt}}, majority: {{}}}}\nexclude: [{{model: {value}}}]\n"
    if is_known:
        parse(text)
    else:
        assert f"exclude[0].model: unknown model '{value}'" in problems(text)[0]


def test_a_share_that_is_measured_is_promised_to_those_alone_that_are_measured():
    models, more = "mlp: {}, probe: {model: mlp, on: {obsm: X_uce}}", "{gpu: auto}"
    trials = sweep(models, f"resources: {{mlp: {more}, probe: {more}}}\n").trials()
    assert resources.notes(trials)[0].startswith("gpu: auto of mlp: ")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("scgpt: {}", "scgpt: {width: 64, num_layers: 2}"),
        ("geneformer: {}", "geneformer: {max_length: 128}"),
        ("scgpt: {size: tiny, width: 64}", "scgpt: {size: tiny, width: 64, hidden: 32}"),
        ("mlp: {size: tiny}", "mlp: {size: small, hidden: [16]}"),
        ("mlp: {hidden: [64], size: tiny}", "mlp: {hidden: [64]}"),
        ("knn: {neighbours: [20, 5, 5]}", "knn: {neighbours: [5, 20]}"),
        ("linear_svm: {strengths: [1, 0.1]}", "linear_svm: {strengths: [0.1, 1]}"),
    ],
)
def test_the_same_model_is_written_in_one_way(one, other):
    """Two ways would be two rows of a table, and half the chance each to be the best."""
    keys = [[trial.key for trial in parse(f"{HEAD}models: {{{text}}}\n").trials()] for text in (one, other)]
    assert keys[0] == keys[1]


def test_settings_of_a_tuned_model_that_mean_the_same_are_refused():
    said = problems(f"{HEAD}models: {{mlp: {{tune: {{hidden: [[128], [64]], size: [small, tiny]}}}}}}\n")
    assert any("mlp(hidden=[128], size=tiny)" in one and "means the same as" in one for one in said), said
