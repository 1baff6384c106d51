"""Official checkpoints: where they are, their licence, what they hold. What isn't known for sure is left out."""

from dataclasses import dataclass, field

from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean

GENEFORMER = "ctheodoris/Geneformer"
SCGPT = "https://drive.google.com/drive/folders/"
SCBERT = "https://github.com/TencentAILabHealthcare/scBERT"


@dataclass(frozen=True)
class Checkpoint:
    """One published network. repo: on Hugging Face; None: a person has to fetch it from `place`.

    patterns: its files in the repo. files: what the folder holds then, which is what `weights:` names. parameters: as
    its authors count them. licence: of the weights where that is said, else of the code they come with.
    """

    name: str
    model: str
    title: str
    place: str
    licence: str
    files: tuple[str, ...]
    repo: str | None = None
    patterns: tuple[str, ...] = field(default=())
    parameters: str = ""


def _geneformer(name: str, parameters: str, dictionaries: str, title: str) -> Checkpoint:
    kinds = ("token_dictionary*.pkl", "gene_median_dictionary*.pkl", "gene_name_id_dict*.pkl", "ensembl_mapping*.pkl")
    return Checkpoint(
        name=name,
        model="geneformer",
        title=title,
        place=f"https://huggingface.co/{GENEFORMER}, folders {name} and {dictionaries}",
        licence="Apache-2.0",
        files=("config.json", "model.safetensors", *kinds),
        repo=GENEFORMER,
        patterns=(f"{name}/config.json", f"{name}/model.safetensors", *(f"{dictionaries}/{kind}" for kind in kinds)),
        parameters=parameters,
    )


def _scgpt(name: str, folder: str, title: str) -> Checkpoint:
    files = ("args.json", "best_model.pt", "vocab.json")
    return Checkpoint(f"scGPT-{name}", "scgpt", title, SCGPT + folder, "MIT (of the code)", files)


CHECKPOINTS = (
    _geneformer("Geneformer-V1-10M", "10 million", "geneformer/gene_dictionaries_30m", "about 30 million cells"),
    _geneformer("Geneformer-V2-104M", "104 million", "geneformer", "about 104 million cells"),
    _geneformer("Geneformer-V2-316M", "316 million", "geneformer", "about 104 million cells"),
    _scgpt("whole-human", "1oWh_-ZRdhtoGQ2Fw24HP41FgLoomVo-y", "33 million normal human cells"),
    _scgpt("brain", "1vf1ijfQSk7rGdDGpBntR5bi5g6gNt-Gx", "13.2 million brain cells"),
    _scgpt("blood", "1kkug5C7NjvXIwQGGaGoqXTk_Lb_pDrBU", "10.3 million blood and bone marrow cells"),
    _scgpt("heart", "1GcgXrd7apn6y4Ze_iSCncskX3UsWPY2r", "1.8 million heart cells"),
    _scgpt("lung", "16A1DJ30PT6bodt4bWLa4hpS7gbWZQFBG", "2.1 million lung cells"),
    _scgpt("kidney", "1S-1AR65DF120kNFpEbWCvRHPhpkGK3kK", "814 thousand kidney cells"),
    _scgpt("pan-cancer", "13QzLHilYUd0v3HTwa_9n4G4yEF-hdkqa", "5.7 million cells of various cancers"),
    Checkpoint(
        name="scBERT",
        model="scbert",
        title="cells of PanglaoDB",
        place=f"linked from the README of {SCBERT}",
        licence="GPL-3.0",
        files=("panglao_pretrain.pth", "gene2vec_16906.npy", "panglao_10000.h5ad"),
    ),
)


def named(name: str) -> Checkpoint:
    """Return the checkpoint of that name, however it is capitalised; RequestError with the nearest one."""
    known = {one.name.lower(): one for one in CHECKPOINTS}
    if name.lower() not in known:
        names = [one.name for one in CHECKPOINTS]
        raise RequestError(f"no official checkpoint {name!r}; {did_you_mean(name, names)}known: {', '.join(names)}")
    return known[name.lower()]
