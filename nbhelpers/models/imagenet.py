"""An ImageNet classifier asked at every place of a photo, and what its 1000 classes mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import missing

if TYPE_CHECKING:
    import onnx
    import onnxruntime

STRIDE = 32  # pixels of the input that the last feature map of EfficientNet-B0 steps over


class DenseClassifier:
    """A convolutional classifier without its pooling: class logits at each place.

    The pooled logits of the classifier are the mean of these over all places, because pooling and the last layer
    are both linear (Zhou et al. 2016, arXiv 1512.04150, class activation mapping).

    Example:
        >>> classifier = DenseClassifier.from_file(path)
        >>> classifier.logits(image, (384, 512)).shape              # image (480, 640, 3) uint8
        (1000, 24, 32)

    Args:
        session: gives features ``(1, d, h, w)`` of pixels ``(1, H, W, 3) float32``, 0 to 255.
        weight: ``(d, c)`` of the last layer.
        bias: ``(c,)``.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        weight: Float32[np.ndarray, "d c"],
        bias: Float32[np.ndarray, " c"],
    ):
        self.session, self.weight, self.bias = session, weight, bias

    def logits(
        self, image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int], mirrored: bool = False
    ) -> Float32[np.ndarray, "c h w"]:
        """Logits of each class at each place.

        Args:
            image: RGB.
            size: height and width that the photo is brought to first; multiples of `STRIDE`.
            mirrored: look at the mirror image; the answer is turned back.
        """
        smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
        pixels = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        pixels = pixels[:, ::-1] if mirrored else pixels
        feeds = {self.session.get_inputs()[0].name: np.ascontiguousarray(pixels[None], np.float32)}
        features = self.session.run(None, feeds)[0][0]
        depth, height, width = features.shape
        logits = features.reshape(depth, -1).T @ self.weight + self.bias
        logits = logits.T.reshape(-1, height, width)
        return np.ascontiguousarray(logits[:, :, ::-1] if mirrored else logits)

    @classmethod
    def from_file(cls, path: Path, dense: bool = True) -> DenseClassifier:
        """Read a Keras EfficientNet in ONNX: channels last, pooling, one linear layer, softmax.

        Args:
            path: the ``.onnx`` file.
            dense: halve the stride of the last feature map to 16, see `open_stride`.

        Raises:
            NbHelpersError: a file that ONNX Runtime cannot read, or another graph.
        """
        import onnx
        import onnxruntime

        try:
            model = onnx.load(str(path))
            weight, bias = take_classifier(model.graph)
            if dense:
                open_stride(model.graph)
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's and protobuf's exceptions have no public base
            raise NbHelpersError(
                "the classifier cannot be loaded",
                given=f"{path.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                expected="an EfficientNet with pooling, one linear layer and softmax",
                do="nbhelpers fetch conse-lite",
            ) from error
        return cls(session, weight, bias)


def take_classifier(
    graph: onnx.GraphProto,
) -> tuple[Float32[np.ndarray, "d c"], Float32[np.ndarray, " c"]]:
    """Cut a graph off before its last pooling, open it to any picture size, and return the last layer.

    Raises:
        ValueError: the graph does not end in pooling, a linear layer and softmax.
    """
    from onnx import TensorProto, helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tail = [node.op_type for node in graph.node][-5:]
    if tail != ["GlobalAveragePool", "Squeeze", "MatMul", "Add", "Softmax"]:
        raise ValueError(f"the graph ends in {', '.join(tail)}")
    pool, _squeeze, linear, add, _softmax = list(graph.node)[-5:]
    weight, bias = (
        numpy_helper.to_array(next(tensors[name] for name in node.input if name in tensors)) for node in (linear, add)
    )
    features = pool.input[0]
    used = {name for node in list(graph.node)[:-5] for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    del graph.node[-5:]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(features, TensorProto.FLOAT, None))
    for axis, name in enumerate(("batch", "height", "width")):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    del graph.value_info[:]  # shapes of the fixed picture size
    return weight, bias


def open_stride(graph: onnx.GraphProto) -> None:
    """Halve the stride of the last feature map: the last step of 2 becomes 1 and what follows looks 2 apart.

    Every second place of the result is what the graph gave before, up to squeeze-and-excitation, whose means are
    now taken over four times as many places. ("Atrous" convolution: Chen et al. 2017, arXiv 1606.00915, section 3.1.)
    """
    after = False
    strided = [node for node in graph.node if node.op_type == "Conv" and _ints(node, "strides", (1, 1)) == (2, 2)]
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        kernel = _ints(node, "kernel_shape", (1, 1))
        if node is strided[-1]:
            after = True
            top, left, bottom, right = _ints(node, "pads", (0, 0, 0, 0))
            # a step of 2 never reached the last row and column of what was padded for it
            _set_ints(node, "strides", (1, 1))
            _set_ints(node, "pads", (top, left, bottom + 1, right + 1))
        elif after and kernel != (1, 1):
            _set_ints(node, "dilations", (2, 2))
            _set_ints(node, "pads", tuple(2 * pad for pad in _ints(node, "pads", (0, 0, 0, 0))))


def class_texts() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lemmas and definitions (WordNet's) of the 1000 ImageNet classes, in the order of the classifier.

    Source: the tables that timm carries; ``timm.data.ImageNetInfo`` reads the same files, but importing timm
    takes seconds.
    """
    from importlib.util import find_spec

    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise missing("text", "timm", "it holds the names of the ImageNet classes")
    tables = Path(spec.submodule_search_locations[0]) / "data" / "_info"
    try:
        synsets = (tables / "imagenet_synsets.txt").read_text().split()
        lemmas, definitions = (
            dict(line.split("\t", 1) for line in (tables / f"imagenet_synset_to_{what}.txt").read_text().splitlines())
            for what in ("lemma", "definition")
        )
        return tuple(lemmas[key] for key in synsets), tuple(definitions[key] for key in synsets)
    except (OSError, ValueError, KeyError) as error:
        raise NbHelpersError(
            "this version of timm keeps the ImageNet names elsewhere",
            given=error,
            do="install the timm of constraints.txt",
        ) from error


def _ints(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return next((tuple(a.ints) for a in node.attribute if a.name == name), default)


def _set_ints(node: onnx.NodeProto, name: str, values: tuple[int, ...]) -> None:
    from onnx import helper

    for index, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[index]
            break
    node.attribute.append(helper.make_attribute(name, values))
