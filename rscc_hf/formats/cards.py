"""The mark of a README.md that this package wrote, and what a user wrote below it."""

MARKER = (
    "<!-- rscc_hf: what stands above is written anew by `rscc card` and `rscc push`; "
    "what stands below is yours and stays. -->"
)


def own_text(existing: str | None) -> str:
    """Return what a user wrote below the marker of an earlier card."""
    return "" if existing is None or MARKER not in existing else existing.partition(MARKER)[2].strip()


def is_ours(existing: str) -> bool:
    """Tell whether a card was written by this package and may be written anew."""
    return MARKER in existing
