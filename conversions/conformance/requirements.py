"""What a family must have for a part of the suite, read off what it brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..core.checking import golden
from ..core.family import Family, no_generation, no_processor

if TYPE_CHECKING:
    from ..core.checking.specimen import Specimen


def _part(name: str) -> Callable[[Family], bool]:
    """Whether the reference has an optional part."""

    def has(family: Family) -> bool:
        if not golden.has_reference(family.name):
            return False
        return hasattr(golden.load_reference(family.name), name)

    return has


def _recorded(section: str) -> Callable[[Family], bool]:
    """Whether golden data have a section."""
    return lambda family: bool(golden.load_golden(family.name).get(section))


REQUIREMENTS: dict[str, tuple[Callable[[Family], Any], str]] = {
    "reference": (lambda f: golden.has_reference(f.name), "it brings no reference"),
    "random": (_part("random_architecture"), "its reference has no random_architecture()"),
    "processor": (lambda f: f.processor is not no_processor, "it has no processor"),
    "pixels": (_part("pixels"), "its reference has no pixels()"),
    "tokenizer": (_part("tokenize"), "its reference has no tokenize()"),
    "generation": (lambda f: f.generation is not no_generation, "it does not generate"),
    "companions": (lambda f: f.companions, "its checkpoint is one file"),
    "layouts": (lambda f: f.layouts, "it takes no other code base's layout"),
    "refusals": (lambda f: f.refusals, "it names no file that is passed by mistake"),
    "published": (lambda f: f.published, "it names no published checkpoint"),
    "published facts": (_recorded("published"), "its golden data know no published checkpoint"),
    "published sizes": (_recorded("manifests"), "its golden data hold no manifests"),
    "published configs": (_recorded("configs"), "its golden data hold no configs"),
    "recorded outputs": (_recorded("tiny"), "its golden data record no outputs"),
    "known defects": (_recorded("known_defects"), "its golden data record no known defect"),
}
"""Requirement -> whether a family meets it, and what to say of one that does not."""


def lacking(family: Family, requirement: str) -> str:
    """Why a family does not meet a requirement; "" when it does."""
    meets, why = REQUIREMENTS[requirement]
    if meets(family):
        return ""
    waived = golden.load_specimen(family.name).without.get(requirement)
    return waived or why


def wrongly_waived(family: Family, specimen: Specimen) -> list[str]:
    """Lines on what a specimen leaves out although the family has it, or that is no requirement."""
    return [
        f"{name}: no such requirement; there are {', '.join(REQUIREMENTS)}"
        if name not in REQUIREMENTS
        else f"{name}: the family has it, so it is proved; take it out of `without`"
        for name in specimen.without
        if name not in REQUIREMENTS or REQUIREMENTS[name][0](family)
    ]
