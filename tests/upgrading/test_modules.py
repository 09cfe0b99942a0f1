"""Modules called by themselves show what a whole model hides, and what they raise is recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conversions.upgrading.differences import of_family
from conversions.upgrading.surface import modules
from conversions.upgrading.surface.probing import Probes

WHERE = ("fresh", "Toy")


class Norm(nn.Module):
    """A norm with a bias, which alone is far larger than what small values become."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.bias = nn.Parameter(torch.linspace(0.5, 1, 6))

    def forward(self, values: Tensor) -> Tensor:
        return values / (values.abs().mean() + self.eps) * 1e-3 + self.bias


class Cached(nn.Module):
    """A layer that adds a row to its cache, and answers with as many as there are."""

    def forward(self, values: Tensor, cache: list[Tensor]) -> Tensor:
        cache.append(values)
        return values * len(cache)


class Masked(nn.Module):
    def forward(self, values: Tensor, attention_mask: Tensor) -> Tensor:
        return values + attention_mask.to(values.dtype)


class Single(nn.Module):
    """What works in float32 alone."""

    def forward(self, values: Tensor) -> Tensor:
        if values.dtype != torch.float32:
            raise TypeError("float32 alone")
        return values


class Toy(nn.Module):
    dtype = torch.float32

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm, self.first, self.second = Norm(eps), Cached(), Cached()
        self.masked, self.single = Masked(), Single()

    def forward(self, pixel_values: Tensor) -> Tensor:
        cache: list[Tensor] = []
        inner = self.second(self.first(pixel_values, cache), cache)
        large = self.single(self.masked(inner, torch.ones(6) * 7)) * 100
        return torch.add(large, self.norm(pixel_values))


def recorded(model: nn.Module) -> dict[str, Any]:
    probes = Probes()
    modules.record(probes, model, {"pixel_values": torch.linspace(-1, 2, 6)}, WHERE)
    return probes.found


def entry(found: dict[str, Any], kind: str, scale: str) -> Any:
    return found["|".join((modules.PART, *WHERE, kind, scale))]


def test_an_epsilon_that_no_output_shows_is_seen() -> None:
    """The whole output is the same in four digits, and the norm of small values is not."""
    one, other = (Toy(eps)(torch.linspace(-1, 2, 6)) for eps in (1e-6, 1e-5))
    assert torch.allclose(one, other, rtol=1e-4)
    left, right = (recorded(Toy(eps)) for eps in (1e-6, 1e-5))
    facts = of_family("toy", left, right)
    assert [(fact.name, fact.where) for fact in facts] == [("module Norm of small values", "Toy")]
    assert not of_family("toy", left, recorded(Toy(1e-6)))


def test_calls_do_not_share_a_cache() -> None:
    """A cache is as it was when the layer was met: empty, in each of the calls."""
    found, size = recorded(Toy()), float(torch.linspace(-1, 2, 6).abs().mean())
    assert entry(found, "Cached", "as met")["size"] == pytest.approx(size, rel=1e-5)
    assert entry(found, "Cached", "small")["size"] == pytest.approx(size * modules.SMALL, rel=1e-4)


def test_masks_by_position_stay_as_they_are() -> None:
    """What is left of small values, less zeros, is the small values: the mask was whole in both."""
    found, size = recorded(Toy()), float(torch.linspace(-1, 2, 6).abs().mean())
    assert entry(found, "Masked", "as met")["size"] > 7
    # the second layer met a cache of two rows: its values are twice the first's
    small = 2 * size * modules.SMALL
    assert entry(found, "Masked", "small")["size"] == pytest.approx(small, rel=1e-3)


def test_what_a_module_raises_is_recorded_and_told() -> None:
    """An exception is a finding, and news where the module answered before."""
    key = "|".join((modules.PART, *WHERE, "Single"))
    now = recorded(Toy())
    assert now[key] == {"raises": "TypeError: float32 alone"}
    before = {name: value for name, value in now.items() if name != key}
    before[f"{key}|as met"] = before[f"{key}|small"] = entry(now, "Norm", "as met")
    told = [fact.what for fact in of_family("toy", before, now)]
    assert told == ["module Single, called by itself, raises TypeError: float32 alone"]


def test_a_kind_that_one_release_alone_has_is_no_news() -> None:
    """Modules come and go with their names; that is told of classes."""
    found = recorded(Toy())
    without = {key: value for key, value in found.items() if "|Norm|" not in key}
    assert not of_family("toy", found, without) and not of_family("toy", without, found)
