"""The real files compute what upstream published for them; skipped where they are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import conversions
from conversions.core.checking import golden
from conversions.core.checking.pictures import sample_image
from tests import http_server, tiny
from tests.families import published as upstream
from tests.families.published import COCO, Supply

ATTO = ("convnextv2", "convnextv2_atto_1k_224_ema")


def supplied(request: Any) -> Supply:
    options = request.config.getoption
    return Supply(options("--checkpoints"), options("--download"), options("--image"))


def values_hold(
    family: str, name: str, supply: Supply, work: Path, entry: dict[str, Any], note: Any
) -> str:
    """Which reading of the picture gives the expected values; fails when none does."""
    try:
        readings = upstream.measure(family, name, supply, work, entry)
    except upstream.MissingError as missing:
        pytest.skip(str(missing))
    atol = entry.get("atol", 0.0)
    reading, worst, offenders = upstream.judge(entry["expected"], readings, atol)
    note("published", worst, **{f"reading of {name}": reading})
    assert not offenders, "\n".join((f"{name}: no reading gives upstream's values", *offenders))
    return reading


def test_published_values(published: Any, tmp_path: Path, request: Any, note: Any) -> None:
    """A published checkpoint, converted, gives the numbers or words that upstream published."""
    family, name = published
    entry = golden.load_golden(family)["published"][name]
    reading = values_hold(family, name, supplied(request), tmp_path, entry, note)
    print(f"{name}: upstream's values hold with {reading}")


@pytest.mark.parametrize("who", ["chinese_clip"], ids=["chinese_clip-ViT-B-16"])
def test_the_originals_own_values(who: str, tmp_path: Path, request: Any, note: Any) -> None:
    """The probabilities in the original's README hold for its own copy of the picture."""
    name = "ViT-B-16"
    recording = golden.load_golden(who)
    recorded = recording["published_values"][name]
    expected = {"softmax(logits_per_image)[0]": recorded["values"][0]}
    entry = {**recording["published"][name], "expected": expected}
    supply = supplied(request)
    picture = Path(supply.folder or "", "chinese_clip", "examples", "pokemon.jpeg")
    if supply.folder is None or not picture.exists():
        where = "DIR/chinese_clip/examples/pokemon.jpeg"
        pytest.skip(f"{recorded['image']} is not here: pytest --checkpoints DIR with {where}")
    here = upstream.Item("image", ("chinese_clip/examples/pokemon.jpeg",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(upstream.BESIDE, who, [upstream.BESIDE[who][0], here])
        values_hold(who, name, supply, tmp_path, entry, note)


@pytest.mark.parametrize("who", ["flava"], ids=["flava-flava-full"])
def test_the_sums_of_embeddings(who: str, tmp_path: Path, request: Any, note: Any) -> None:
    """The sums of image and text embeddings are those of transformers' own test, to 4 places."""
    recording = golden.load_golden(who)
    recorded = recording["published_values"]
    names = ("image_embeddings.sum", "text_embeddings.sum")
    expected = {name: [recorded["values"][name]] for name in names}
    entry = {**recording["published"]["flava-full"], "expected": expected, "atol": 0.5e-4}
    values_hold(who, "flava-full", supplied(request), tmp_path, entry, note)


# The path is proven with files made here under the published names.


@pytest.fixture(scope="module")
def atto() -> dict[str, torch.Tensor]:
    """Random weights of the full published size."""
    reference = golden.load_reference("convnextv2")
    state: dict[str, torch.Tensor] = reference.state_dict(reference.VARIANTS["atto"])
    return state


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http_server.Server]:
    """Stands in for the hosts of the published file and of the picture."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http_server.running() as server:
        known = conversions.families()["convnextv2"]
        moved = tuple(
            dataclasses.replace(p, location=server.url(p.location.rpartition("/")[2]))
            for p in known.published
        )
        there = dataclasses.replace(known, published=moved)
        monkeypatch.setitem(conversions.families(), "convnextv2", there)
        image = upstream.Item("image", (COCO,), server.url(COCO))
        monkeypatch.setitem(upstream.BESIDE, "convnextv2", [image])
        picture = tmp_path / COCO
        sample_image(640, 480).save(picture, "JPEG", quality=95)
        server.files[COCO] = http_server.Served(picture.read_bytes(), type="image/jpeg")
        yield server


def serve(host: http_server.Server, state: dict[str, torch.Tensor], work: Path) -> None:
    """Put a state dict under the published name, in the original's container."""
    torch.save({"model": state}, work / "served.pt")
    body = (work / "served.pt").read_bytes()
    host.files[f"{ATTO[1]}.pt"] = http_server.Served(body)


def expected_of(state: dict[str, torch.Tensor], picture: Path, reading: str) -> dict[str, Any]:
    """The entry that a golden file would hold for these weights, from the reference alone."""
    import PIL.Image

    reference = golden.load_reference("convnextv2")
    arch = reference.VARIANTS["atto"]
    pixels = reference.pixels(PIL.Image.open(picture), arch, reading)["pixel_values"]
    with torch.no_grad():
        logits = reference.forward(state, arch, {"pixel_values": torch.from_numpy(pixels)[None]})
    return {"expected": {"logits[0,:5]": logits["logits"][0, :5].tolist()}, "atol": 0.001}


SERVED = Supply(download=True, checks="files")


@pytest.mark.parametrize("name", [ATTO[1]], ids=["convnextv2-atto"])
def test_a_served_file_gives_its_own_values(
    name: str, atto: Any, host: http_server.Server, tmp_path: Path, note: Any
) -> None:
    """A full-size file fetched under its published name passes, and the reading is named."""
    serve(host, atto, tmp_path)
    cropped, warped = (expected_of(atto, tmp_path / COCO, r) for r in ("original", "warped"))
    readings = upstream.measure(*ATTO, SERVED, tmp_path, cropped)
    asked = [path for method, path, _ in host.requests if method == "GET"]
    assert sorted(asked) == [f"/{COCO}", f"/{name}.pt"]
    for entry, reading in ((cropped, "the folder's processor"), (warped, "warped, no crop")):
        found, worst, offenders = upstream.judge(entry["expected"], readings, entry["atol"])
        assert (found, offenders) == (reading, [])
        note("published", worst)


@pytest.mark.parametrize("key", ["downsample_layers.3.1.weight"], ids=["convnextv2-atto"])
def test_a_changed_weight_is_seen(
    key: str, atto: Any, host: http_server.Server, tmp_path: Path
) -> None:
    """The same file with one weight changed converts, and fails the published values."""
    entry = expected_of(atto, tmp_path / COCO, "original")
    changed = {**atto, key: atto[key].clone()}
    changed[key][7, 5, 0, 0] += 0.2
    serve(host, changed, tmp_path)
    with pytest.raises(AssertionError, match="no reading gives upstream's values") as failure:
        values_hold(*ATTO, SERVED, tmp_path, entry, silent)
    assert "logits[0,:5]: expected" in str(failure.value)


def silent(*noted: Any, **values: Any) -> None:
    """Takes the place of `note` where a difference is wanted."""


def test_what_is_missing_is_said(published: Any) -> None:
    """A skip names every absent file and each way to supply it."""
    with pytest.raises(upstream.MissingError) as missing:
        Supply(None).find(upstream.items(*published))
    for item in upstream.items(*published):
        assert (
            f"{Path(item.paths[-1]).name} is not here: pytest --checkpoints DIR with DIR/"
            in str(missing.value)
        )
    of_coco = any(upstream.COCO in item.paths for item in upstream.items(*published))
    assert ("--image FILE" in str(missing.value)) == of_coco


# The other families' paths, with tiny models under the published names.


NAMES = {
    "chinese_clip": "ViT-B-16",
    "flava": "flava-full",
    "kosmos2": "kosmos-2",
    "vipllava": "vip-llava-7b",
}


@pytest.mark.parametrize("who", NAMES, ids=[f"{name}-tiny" for name in NAMES])
def test_the_path_of_every_family(who: str, tmp_path: Path) -> None:
    """From the documented folder the observables are measured; other weights change them."""
    name = NAMES[who]
    reference = golden.load_reference(who)
    folder = tmp_path / "real"
    lay_out(who, name, reference.state_dict(reference.TINY), folder)
    supply = Supply(folder, config=reference.config(reference.TINY), checks="files")
    entry = {**golden.load_golden(who)["published"][name], "max_new_tokens": 10}
    measured = upstream.measure(who, name, supply, tmp_path / "first", entry)
    assert len(measured) == 1
    own = {**entry, "expected": next(iter(measured.values()))}
    assert own["expected"].keys() >= entry["expected"].keys()
    lay_out(who, name, reference.state_dict(reference.TINY, seed=1), folder)
    with pytest.raises(AssertionError, match="no reading gives upstream's values"):
        values_hold(who, name, supply, tmp_path / "third", own, silent)


def lay_out(family: str, name: str, state: dict[str, torch.Tensor], folder: Path) -> None:
    """The folder of tests/README.md, for a tiny model: its files under their real names."""
    checkpoint, companions = tiny.write_source(family, folder / "made", state)
    (folder / family).mkdir(exist_ok=True)
    for item in upstream.items(family, name):
        place = folder / item.paths[0]
        if item.name == "checkpoint":
            place.parent.mkdir(exist_ok=True)
            put_checkpoint(checkpoint, place)
        elif item.name in companions:
            Path(companions[item.name]).replace(place)
        elif item.name == "image":
            sample_image().save(place)
        elif not place.exists():
            vocabulary_of(family)(place.parent)


def put_checkpoint(checkpoint: Path, place: Path) -> None:
    """The checkpoint itself, or as the one shard of an index."""
    if place.name.endswith(".index.json"):
        import json

        state = torch.load(checkpoint, weights_only=True)
        shard = "pytorch_model-00001-of-00001.bin"
        checkpoint.replace(place.with_name(shard))
        place.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(state, shard)}))
    else:
        checkpoint.replace(place)


def vocabulary_of(family: str) -> Any:
    """Writes a small vocabulary that fits the tiny model, under the real name."""
    if family != "flava":
        return golden.load_reference(family).example_vocabulary
    words = golden.load_reference("chinese_clip").example_vocabulary
    rows = golden.load_reference(family).TINY["text"]["vocabulary"]
    return lambda folder: words(folder, {"vocab_size": rows})
