"""What is known of each published data set, an entry a set: the one place for cards, scores and readers to ask.

Facts as their authors state them; where nothing is stated, that is what stands here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


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
        pairs: How many pairs each split was published with.
        no_change: The sentences by which its captions say that nothing changed, as `data.captions.normalise` gives
            them and in its own order.
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
    pairs: Mapping[str, int] = field(default_factory=dict, compare=False)  # no part of the hash
    no_change: tuple[str, ...] = ()


_SECOND = "aerial photographs of cities from several platforms and sensors"
_LEVIR = "satellite and aerial photographs of Texas at 0.5 m a pixel"
_LEVIR_PAIRS = {"train": 6815, "validation": 1333, "test": 1929}
LEVIR_NO_CHANGE = (
    "there is no difference",
    "the two scenes seem identical",
    "the scene is the same as before",
    "no change has occurred",
    "almost nothing has changed",
)
"""LEVIR-CC's five captions of an unchanged pair, in its order."""

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
        pairs=_LEVIR_PAIRS,
        no_change=LEVIR_NO_CHANGE,
    ),
    KnownData(
        "levir-mci",
        "LEVIR-MCI",
        _LEVIR,
        "academic use, as its authors ask; not re-hosted by rscc_hf",
        "https://github.com/Chen-Yang-Liu/Change-Agent",
        aliases=("levir-mci-mini", "levir-mci-dataset"),
        pairs=_LEVIR_PAIRS,
        no_change=LEVIR_NO_CHANGE,
    ),
    KnownData(
        "second-cc",
        "SECOND-CC",
        _SECOND,
        "published under a DOI; the terms of SECOND's images are not known; not re-hosted by rscc_hf",
        "https://doi.org/10.5281/zenodo.16937571",
        holds_second=True,
        aliases=("second-cc-mini", "second-cc-aug", "second-cc-dataset"),
        pairs={"train": 4219, "validation": 595, "test": 1227},
        no_change=(*LEVIR_NO_CHANGE[:3], "no change is occurred", "almost nothing is changed"),
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
        pairs={"train": 300, "validation": 50, "test": 150},
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
    """Return the data set that a name, a Hub id or the name of a folder stands for; None: it is not a known one.

    The whole name has to be that of the data set, or one of its aliases: that a word of it occurs says nothing.

    Args:
        name: For instance "LEVIR-CC", "org/second_cc_mini", "synthetic".
    """
    owner, _, last = name.strip().rstrip("/").rpartition("/")
    data = _BY_NAME.get(re.sub(r"[-_ ]+", "-", last.lower()))
    if data is not None and data.is_common_word and owner and last != data.name:
        return None
    return data
