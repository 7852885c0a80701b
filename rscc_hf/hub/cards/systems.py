"""What every card of a published system's model says. Facts as its authors state them."""

from dataclasses import dataclass


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
        release_data: What the authors' release was trained on, as `rscc_hf.data.catalog` names it.
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
