"""What is known about the data sets and releases of this field: terms, ground resolution, what overlaps with what.

Facts as their authors state them; where nothing is stated, that is what stands here.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownData:
    """A data set that a card may have to speak of.

    Attributes:
        key: Its name in lower case with hyphens, as `known_data` looks for it.
        name: Its name.
        shows: What its images are, with their ground resolution.
        terms: Under what terms it is given out, or that none are stated.
        link: Where its authors describe it.
        license: What the Hub calls its licence; None: no licence that it has a name for.
        holds_second: Whether images of SECOND are in it.
        language: Of its captions, as the Hub names languages.
        aliases: Other names of it, or of parts and variants of it, written as `key` is.
        is_common_word: Whether people call other things so too (`outputs/second`): behind an owner or a folder the
            name then counts only as its authors write it.
    """

    key: str
    name: str
    shows: str
    terms: str
    link: str | None = None
    license: str | None = None
    holds_second: bool = False
    language: str | None = "en"
    aliases: tuple[str, ...] = ()
    is_common_word: bool = False


_SECOND = "aerial photographs of cities from several platforms and sensors"
_LEVIR = "satellite and aerial photographs of Texas at 0.5 m a pixel"

KNOWN: tuple[KnownData, ...] = (
    KnownData(
        "synthetic",
        "synthetic scenes",
        "drawn scenes of 128 by 128 metres, no photographs",
        "Apache-2.0 where `rscc data synthesize` drew them",
        license="apache-2.0",
        aliases=("synthetic-scenes",),
        is_common_word=True,
    ),
    KnownData(
        "levir-cc",
        "LEVIR-CC",
        _LEVIR,
        "academic use, as its authors ask; not re-hosted by rscc_hf",
        "https://github.com/Chen-Yang-Liu/RSICC",
        aliases=("levir-cc-mini", "levir-cc-dataset"),
    ),
    KnownData(
        "levir-mci",
        "LEVIR-MCI",
        _LEVIR,
        "academic use, as its authors ask; not re-hosted by rscc_hf",
        "https://github.com/Chen-Yang-Liu/Change-Agent",
        aliases=("levir-mci-mini", "levir-mci-dataset"),
    ),
    KnownData(
        "second-cc",
        "SECOND-CC",
        _SECOND,
        "published under a DOI; the terms of SECOND's images are not known; not re-hosted by rscc_hf",
        "https://doi.org/10.5281/zenodo.16937571",
        holds_second=True,
        aliases=("second-cc-mini", "second-cc-aug", "second-cc-dataset"),
    ),
    KnownData(
        "second",
        "SECOND",
        _SECOND,
        "terms not known; not re-hosted by rscc_hf",
        holds_second=True,
        is_common_word=True,
    ),
    KnownData(
        "dubai-cc",
        "Dubai-CC",
        "Landsat 7 images of Dubai at 30 m a pixel",
        "terms not known",
        aliases=("dubai-cc-mini",),
    ),
    KnownData(
        "cc-foundation",
        "CC-Foundation",
        "a mixture of nine sources, LEVIR-CC, SYSU-CD and SECOND among them, most of them no remote sensing",
        "each part under its own terms",
        "https://github.com/Meize0729/CCExpert",
        holds_second=True,
    ),
)


_BY_NAME = {name: data for data in KNOWN for name in (data.key, *data.aliases)}


def known_data(name: str) -> KnownData | None:
    """The data set that a name, a Hub id or the name of a folder stands for; None where it is not a known one.

    The whole name has to be that of the data set, or one of its aliases: that a word of it occurs says nothing.

    Args:
        name: For instance "LEVIR-CC", "org/second_cc_mini", "synthetic".
    """
    owner, _, last = name.strip().rstrip("/").rpartition("/")
    data = _BY_NAME.get(re.sub(r"[-_ ]+", "-", last.lower()))
    if data is not None and data.is_common_word and owner and last != data.name:
        return None
    return data


@dataclass(frozen=True)
class System:
    """A published system: what every card of such a model says.

    Attributes:
        name: As in its paper.
        summary: One sentence on how it works.
        paper: Its title.
        arxiv: Its number.
        repository: Of the authors' code.
        pipeline_tag: The Hub's task.
        code_terms: Terms of the authors' code and of the weights that they give out.
        license: Metadata of a converted release where the authors state no licence for the weights.
        bibtex: How to cite it.
        release_data: What the authors' release was trained on, as `known_data` names it.
        release_limits: What holds for the authors' weights, after conversion too.
    """

    name: str
    summary: str
    paper: str
    arxiv: str
    repository: str
    pipeline_tag: str
    code_terms: str
    bibtex: str
    release_data: tuple[str, ...]
    release_limits: tuple[str, ...]


SYSTEMS: dict[str, System] = {
    "mmodalcc": System(
        name="MModalCC",
        summary="Siamese encoders for RGB images and semantic maps, cross-modal and difference attention between the "
        "dates, and a decoder that gates RGB, semantics and words.",
        paper="Robust Change Captioning in Remote Sensing: SECOND-CC Dataset and MModalCC Framework",
        arxiv="2501.10075",
        repository="https://github.com/ChangeCapsInRS/SecondCC",
        pipeline_tag="image-to-text",
        code_terms="no licence is stated for the authors' code or weights",
        bibtex=r"""@article{mmodalcc2025,
  author  = {Karaca, A. C. and {\"O}zelba{\c{s}}, E. and Berber, S. and Karimli, O. and
             Y{\i}ld{\i}r{\i}m, T. and Amasyal{\i}, M. F.},
  title   = {Robust Change Captioning in Remote Sensing: {SECOND-CC} Dataset and {MModalCC} Framework},
  journal = {IEEE Journal of Selected Topics in Applied Earth Observations and Remote Sensing},
  year    = {2025},
  doi     = {10.1109/JSTARS.2025.3600613},
  note    = {arXiv:2501.10075}
}""",
        release_data=("second-cc",),
        release_limits=(
            "The authors' release counts the words of its vocabulary on all splits, test captions included.",
            "SECOND's maps are coloured only where something changed: a model that learned from them reads from a map "
            "whether anything changed, and scores with such maps do not tell what predicted maps would give.",
        ),
    ),
    "ccexpert": System(
        name="CCExpert",
        summary="LLaVA-OneVision with a Difference-aware Integration Module between its vision tower and its "
        "projector: both dates are encoded alone, compared at several levels, and read by a language model.",
        paper="CCExpert: Advancing MLLM Capability in Remote Sensing Change Captioning with Difference-Aware "
        "Integration and a Foundational Dataset",
        arxiv="2411.11360",
        repository="https://github.com/Meize0729/CCExpert",
        pipeline_tag="image-text-to-text",
        code_terms="the authors' repository is under Apache-2.0; it states no licence of its own for the weights",
        bibtex="""@article{ccexpert2024,
  author  = {Wang, Mingze and Wang, Zhiming and Xu, Sheng and Li, Yanjing and Zhang, Baochang},
  title   = {{CCExpert}: Advancing {MLLM} Capability in Remote Sensing Change Captioning with
             Difference-Aware Integration and a Foundational Dataset},
  journal = {arXiv:2411.11360},
  year    = {2024}
}""",
        release_data=("cc-foundation", "levir-cc"),
        release_limits=(
            "The authors choose the weights that they release by their score on LEVIR-CC's test split, so that scores "
            "on that split are optimistic.",
            "SECOND is part of CC-Foundation, on which the release was pretrained: its scores on SECOND-CC are "
            "contaminated, and are no measure of how it does on images it has never seen.",
        ),
    ),
}
"""By `model_type` of the configuration."""
