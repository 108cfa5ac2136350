"""Dense ConSE: ImageNet classification of each cell of a photo, transferred to any class name by word similarity.

Based on the convex combination of semantic embeddings (Norouzi et al. 2014, arXiv 1312.5650), with two changes. It is
dense. And instead of embedding the photo and searching for the nearest name, each name combines the probabilities of
the ImageNet classes with a similar meaning. Its knowledge is limited to 1000 classes and a 90 MB sentence encoder; CLIP
knows far more.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing
from nbhelpers.core.lazy import missing
from nbhelpers.core.vocabulary import is_stuff
from nbhelpers.models.adapters import onnx_session
from nbhelpers.models.dense import as_classes
from nbhelpers.models.minilm import SentenceEncoder
from nbhelpers.models.values import ClassMap

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

PEAK = 0.99  # quantile over the photo that is taken as the best score, against outliers

# Names that ImageNet lacks, and related classes that it has. A name uses the row whose names are most
# similar to it, if similar enough. Derived from the list of the 1000 classes and checked on COCO train photos.
HINTS = (
    (
        ("person", "people", "man", "woman", "child", "human"),
        ("clothing", "hat", "hair", "garment worn by a person"),
    ),
    (("bicycle", "bike"), ("mountain bike", "bicycle-built-for-two")),
    (("motorbike", "motorcycle"), ("moped", "motor scooter", "mountain bike", "bicycle-built-for-two")),
    (("cow", "cattle", "bull"), ("ox", "water buffalo")),
    (("face", "head", "hand", "skin"), ("face powder", "lipstick", "wig", "sunglasses", "Band Aid")),
    (("sky", "cloud"), ("parachute", "airship", "kite", "flagpole", "wing of an airplane")),
    (("tree", "forest", "bush"), ("greenhouse", "lakeside", "maze", "birdhouse", "park bench")),
    (("grass", "lawn", "field"), ("lawn mower", "hay", "rapeseed", "croquet ball")),
    (("road", "street", "pavement"), ("street sign", "parking meter", "manhole cover", "traffic light", "cab")),
    (("water", "sea", "lake", "river"), ("lakeside", "seashore", "sandbar", "breakwater", "dock")),
    (("wall", "floor", "ceiling"), ("window shade", "sliding door", "wall clock", "doormat", "stone wall")),
    (
        ("background",),
        ("window shade", "stone wall", "lakeside", "seashore", "valley", "street sign", "hay", "velvet", "maze"),
    ),
)
STRIDE = 32  # of the last feature map of EfficientNet-B0, in pixels of the input


@dataclass(frozen=True)
class ConseSettings:
    """Constants of dense ConSE, chosen by reasoning and on COCO train photos.

    Attributes:
        scales: longer sides in pixels at which the photo is classified.
        flip: also classify its mirror image.
        templates: sentences with ``{}`` for the name; their embeddings are averaged.
        visual_weight: fraction of a class's similarity to a name that comes from its `neighbours` visually similar
            classes, which corrects words that mislead: an Old English sheepdog is similar to dogs.
        neighbours: number of visually similar classes.
        min_similarity: minimum cosine of an ImageNet class and a name.
        sharpness: of the weights of less similar classes, ``exp(sharpness * (similarity - best))``.
        rivalry: how strongly a class that matches another name of the vocabulary better is discounted.
        prior: exponent of the row sum by which the row of a name is divided: 1 makes names with many matching classes
            equal to names with few, 0 keeps their advantage.
        presence: exponent of the mean of a name over the photo by which its score is multiplied; 0 for none.
        floor: score of a name without matching classes.
        rest: where countable classes reach less than this fraction of their best score in the photo, stuff (sky, wall,
            background) wins, if the vocabulary has any: ImageNet has hardly any stuff, and its classes are also active
            around an object. Class activation maps are thresholded likewise, at 0.2 (arXiv 1512.04150, section 3.2).
        side: longer side of the maps.
        radius: of the guided filter that aligns the maps with the photo's contours, in cells of the maps; 0 for
            none.
        tolerance: variance of the photo's brightness, 0 to 1 squared, below which the filter smooths.
        near: cosine from which a name uses the related classes of another.
    """

    scales: tuple[int, ...] = (320, 448, 640)
    flip: bool = True
    templates: tuple[str, ...] = ("{}", "a {}", "a photo of a {}")
    visual_weight: float = 0.3
    neighbours: int = 5
    min_similarity: float = 0.35
    sharpness: float = 15.0
    rivalry: float = 10.0
    prior: float = 0.5
    presence: float = 1.0
    floor: float = 1e-5
    rest: float = 0.1
    side: int = 160
    radius: int = 4
    tolerance: float = 1e-3
    near: float = 0.7


class ConseTextEncoder:
    """Open-vocabulary dense prediction from an ImageNet classifier; a `nbhelpers.models.protocols.TextEncoder`.

    Example:
        >>> encoder = nbhelpers.load("text_encoder", "conse-lite")
        >>> encoder.dense(image, ["cat", ["grass", "lawn"]]).probabilities.shape      # (480, 640, 3) uint8
        (2, 120, 160)
        >>> encoder.explain(["cat"])["cat"][0]
        ('Egyptian cat', 0.28)

    Args:
        classifier: of ImageNet, without its pooling.
        sentences: returns unit vectors ``(n, d)`` for ``n`` sentences.
        settings: see `ConseSettings`.
        name: catalog name.
        device: where it computes; always the CPU.
        store: ``.npz`` file for the embeddings of the ImageNet classes, shared by processes, or None to store nothing.
    """

    def __init__(
        self,
        classifier: DenseClassifier,
        sentences: Callable[[Sequence[str]], Float32[np.ndarray, "n d"]],
        settings: ConseSettings | None = None,
        name: str = "conse-lite",
        device: str = "cpu",
        store: Path | None = None,
    ):
        self.classifier, self.sentences, self.store = classifier, sentences, store
        self.settings = settings or ConseSettings()
        self.name, self.device = name, device
        self._vectors: dict[str, np.ndarray] = {}

    def dense(self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str | Sequence[str]]) -> ClassMap:
        """Probabilities over ``names``, at most `ConseSettings.side` on the longer side.

        Args:
            image: RGB of any size from 1 x 1.
            names: the vocabulary; a class may have several names, of which the most probable counts in each cell.
                A single class has no competitor and is probable everywhere.

        Raises:
            NbHelpersError: no names, an empty name, or the same class twice.
        """
        groups = as_classes(names)
        carry = self.carry(groups)
        height, width = image.shape[:2]
        settings, shorter = self.settings, min(1.0, self.settings.side / max(height, width))
        grid = max(1, round(height * shorter)), max(1, round(width * shorter))
        scores = np.zeros((len(groups), *grid), np.float32)
        views = [(side, mirrored) for side in settings.scales for mirrored in (False, True)[: 1 + settings.flip]]
        bounds = np.cumsum([0] + [len(group) for group in groups])
        for side, mirrored in views:
            classes = self._classes(image, side, mirrored)
            maps = (carry @ classes.reshape(len(classes), -1)).reshape(-1, *classes.shape[1:])
            for index, (start, stop) in enumerate(pairwise(bounds)):
                scores[index] += cv2.resize(maps[start:stop].max(0), grid[::-1], interpolation=cv2.INTER_LINEAR)
        scores /= len(views)
        if settings.radius and min(grid) > 1:
            _align_contours(scores, cv2.resize(image, grid[::-1], interpolation=cv2.INTER_AREA), settings)
        scores += settings.floor
        scores *= scores.mean((1, 2), keepdims=True) ** settings.presence
        raise_stuff(scores, np.array([any(map(is_stuff, group)) for group in groups]), settings.rest)
        scores /= scores.sum(0)
        return ClassMap(scores, tuple(group[0] for group in groups), (height, width), self.name)

    def carry(self, groups: Sequence[Sequence[str]]) -> Float32[np.ndarray, "n c"]:
        """Weights of the ImageNet classes for each name, one row per name.

        With `ConseSettings.prior` 1 a row sums to 1, so that a name with many matching classes is not predicted more
        often: 118 of the 1000 classes are dogs, and without this normalisation sheep and cows become dogs.
        """
        settings = self.settings
        similarity = np.concatenate([self._similarity(group) for group in groups])
        counts = [len(group) for group in groups]
        starts = np.cumsum([0, *counts[:-1]])
        stuff = np.array([any(map(is_stuff, group)) for group in groups])
        if stuff.any() and not stuff.all():  # a snowplow is no evidence of snow if it may be a tractor
            claimed = similarity[~np.repeat(stuff, counts)].max(0) >= settings.min_similarity
            similarity[np.ix_(np.repeat(stuff, counts), claimed)] = 0
        best = similarity.max(1, keepdims=True)
        weight = np.exp(settings.sharpness * (similarity - best))
        weight[similarity < np.minimum(settings.min_similarity, best)] = 0
        strongest = np.maximum.reduceat(similarity, starts)  # over the names of each class: synonyms do not compete
        top = strongest.max(0)
        rivals = np.exp(settings.rivalry * (strongest - top)).sum(0)
        weight *= np.exp(settings.rivalry * (similarity - top)) / rivals
        return (weight / weight.sum(1, keepdims=True) ** settings.prior).astype(np.float32)

    def explain(self, names: Sequence[str | Sequence[str]], top: int = 5) -> dict[str, list[tuple[str, float]]]:
        """The ImageNet classes that represent each name in this vocabulary, with weights, in decreasing order."""
        groups = as_classes(names)
        lemmas = class_texts()[0]
        flat = [name for group in groups for name in group]
        return {
            name: [(lemmas[i].split(",")[0], round(float(row[i] / row.sum()), 2)) for i in np.argsort(-row)[:top]]
            for name, row in zip(flat, self.carry(groups), strict=True)
        }

    @property
    def min_similarity(self) -> float:
        """Cosine with the nearest ImageNet class below which a name is unknown to the classifier."""
        return self.settings.min_similarity

    def nearest(self, name: str, count: int = 3) -> list[tuple[str, float]]:
        """The ImageNet classes nearest in meaning to a name, with their cosines, in decreasing order."""
        lemmas, similarity = class_texts()[0], self._similarity([name])[0]
        return [(lemmas[i].split(",")[0], float(similarity[i])) for i in np.argsort(-similarity, kind="stable")[:count]]

    @cached_property
    def _meanings(self) -> Float32[np.ndarray, "c d"]:
        """Embeddings of the ImageNet classes, from lemma and definition; computed in seconds unless stored."""
        texts = [f"{lemma}: {text}" for lemma, text in zip(*class_texts(), strict=True)]
        stored = None if self.store is None else _read_embeddings(self.store, texts)
        if stored is not None:
            return stored
        embeddings = self.sentences(texts)
        if self.store is not None:
            try:
                with replacing(self.store) as temporary:
                    np.savez(temporary, texts=np.array(texts), embeddings=embeddings)
            except NbHelpersError as error:
                log.warning("the embeddings of the ImageNet classes could not be stored: %s", error.given)
        return embeddings

    def _similarity(self, names: Sequence[str]) -> Float32[np.ndarray, "n c"]:
        """Cosine of each name, or of its related classes, with each ImageNet class, smoothed over similar classes."""
        embedded = sum(
            self._embed(template.replace("{}", name) for name in names) for template in self.settings.templates
        )
        out = embedded / np.linalg.norm(embedded, axis=1, keepdims=True) @ self._meanings.T
        plain = self._embed(names)
        closeness = np.stack([(plain @ self._embed(keys).T).max(1) for keys, _ in HINTS])
        for index, (_, hints) in enumerate(HINTS):
            helped = (closeness.argmax(0) == index) & (closeness[index] >= self.settings.near)
            if helped.any():
                out[helped] = np.maximum(out[helped], (self._embed(hints) @ self._meanings.T).max(0))
        near, weights = self._similar_classes
        return (1 - self.settings.visual_weight) * out + self.settings.visual_weight * np.einsum(
            "nck,ck->nc", out[:, near], weights
        )

    @cached_property
    def _similar_classes(self) -> tuple[Int[np.ndarray, "c k"], Float32[np.ndarray, "c k"]]:
        """The most similar classes of each class by the weights of the last layer, and their normalised similarity."""
        columns = self.classifier.weight / np.linalg.norm(self.classifier.weight, axis=0)
        cosine = columns.T @ columns
        np.fill_diagonal(cosine, -1)
        near = np.argsort(-cosine, axis=1)[:, : self.settings.neighbours]
        weights = np.clip(np.take_along_axis(cosine, near, axis=1), 1e-3, None)
        return near, weights / weights.sum(1, keepdims=True)

    def _embed(self, sentences: Iterable[str]) -> Float32[np.ndarray, "n d"]:
        wanted = list(sentences)
        if fresh := list(dict.fromkeys(text for text in wanted if text not in self._vectors)):
            self._vectors.update(zip(fresh, self.sentences(fresh), strict=True))
        return np.stack([self._vectors[text] for text in wanted])

    def _classes(self, image: UInt8[np.ndarray, "H W 3"], side: int, mirrored: bool) -> Float32[np.ndarray, "c h w"]:
        """ImageNet probabilities in each cell of the photo, scaled to a longer side of ``side``."""
        scale = side / max(image.shape[:2]) / STRIDE
        height, width = (max(1, round(length * scale)) * STRIDE for length in image.shape[:2])
        logits = self.classifier.logits(image, (height, width), mirrored)
        logits -= logits.max(0)
        np.exp(logits, out=logits)
        logits /= logits.sum(0)
        return logits


def build(name: str, files: dict[str, Path], device: str) -> ConseTextEncoder:
    """Build an encoder from ``{"classifier", "text", "config", "tokenizer": path}``.

    Raises:
        NbHelpersError: a file that cannot be read, or contains another network.
    """
    sentences = SentenceEncoder.from_files(files["text"], files["config"], files["tokenizer"])
    digest = hashlib.sha256(files["text"].read_bytes()).hexdigest()[:16]
    store = files["text"].with_name(f"imagenet-{digest}.npz")
    return ConseTextEncoder(DenseClassifier.from_file(files["classifier"]), sentences, name=name, store=store)


def _read_embeddings(path: Path, texts: Sequence[str]) -> Float32[np.ndarray, "c d"] | None:
    """Stored embeddings of exactly these texts, or None."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return stored["embeddings"] if list(stored["texts"]) == list(texts) else None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def raise_stuff(scores: Float32[np.ndarray, "n h w"], stuff: Bool[np.ndarray, " n"], rest: float) -> None:
    """Raise the sum of the stuff classes to ``rest`` times the score of the strongest countable class, in place.

    That score is the geometric mean of the best score of the class in the photo and the best score of all countable
    classes. With only the former, an absent class would win in empty areas; with only the latter, a weak class would
    lose its area. The sum is divided among stuff classes in proportion to their scores.
    """
    if stuff.any() and not stuff.all():
        countable = scores[~stuff]
        best = np.quantile(countable.reshape(len(countable), -1), PEAK, axis=1)
        fractions = scores[stuff] / scores[stuff].sum(0)
        scores[stuff] += rest * np.sqrt(best[countable.argmax(0)] * best.max()) * fractions


def _align_contours(scores: Float32[np.ndarray, "n h w"], image: UInt8[np.ndarray, "h w 3"], settings) -> None:
    """Guided filter (He et al. 2013, doi 10.1109/TPAMI.2012.213, equations 5, 6 and 8), in place, class by class.

    In each window a score is fitted as a linear function of the photo's brightness, so that it has edges only where the
    photo has.
    """
    guide = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255

    def mean(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        window = (2 * settings.radius + 1,) * 2
        return cv2.boxFilter(values, -1, window, borderType=cv2.BORDER_REFLECT)

    guide_mean = mean(guide)
    variance = mean(guide * guide) - guide_mean**2
    for score in scores:
        score_mean = mean(score)
        slope = (mean(guide * score) - guide_mean * score_mean) / (variance + settings.tolerance)
        score[:] = mean(slope) * guide + mean(score_mean - slope * guide_mean)
    np.clip(scores, 0, None, out=scores)


class DenseClassifier:
    """A convolutional classifier without its pooling, for dense class logits.

    The pooled logits of the classifier are the mean of the dense logits, since pooling and the last layer are both
    linear (Zhou et al. 2016, arXiv 1512.04150, class activation mapping).

    Example:
        >>> classifier = DenseClassifier.from_file(path)
        >>> classifier.logits(image, (384, 512)).shape              # image (480, 640, 3) uint8
        (1000, 24, 32)

    Args:
        session: computes features ``(1, d, h, w)`` from pixels ``(1, H, W, 3) float32``, 0 to 255.
        weight: ``(d, c)`` of the last layer.
        bias: ``(c,)``.
    """

    def __init__(
        self,
        session: Any,
        weight: Float32[np.ndarray, "d c"],
        bias: Float32[np.ndarray, " c"],
    ):
        self.session, self.weight, self.bias = session, weight, bias

    def logits(
        self, image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int], mirrored: bool = False
    ) -> Float32[np.ndarray, "c h w"]:
        """Dense logits of each class.

        Args:
            image: RGB.
            size: height and width to which the photo is scaled; multiples of `STRIDE`.
            mirrored: classify the mirror image; the logits are mirrored back.
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
            dense: halve the stride of the last feature map to 16, see `halve_stride`.

        Raises:
            NbHelpersError: a file that ONNX Runtime cannot read, or another graph.
        """
        import onnx

        try:
            model = onnx.load(str(path))
            weight, bias = cut_classifier(model.graph)
            if dense:
                halve_stride(model.graph)
            session, _ = onnx_session(model.SerializeToString())
        except Exception as error:  # onnxruntime's and protobuf's exceptions have no public base
            raise NbHelpersError(
                "the classifier cannot be loaded",
                given=f"{path.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                expected="an EfficientNet with pooling, one linear layer and softmax",
                do="nbhelpers fetch conse-lite",
            ) from error
        return cls(session, weight, bias)


def cut_classifier(
    graph: onnx.GraphProto,
) -> tuple[Float32[np.ndarray, "d c"], Float32[np.ndarray, " c"]]:
    """Cut off a graph before its last pooling, make its input size variable, and return the last layer.

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
    del graph.value_info[:]  # shapes of the fixed input size
    return weight, bias


def halve_stride(graph: onnx.GraphProto) -> None:
    """Halve the stride of the last feature map: the last stride of 2 becomes 1 and later layers are dilated by 2.

    Every second cell equals that of the original graph, except for squeeze-and-excitation, whose means are taken over
    four times as many cells ("atrous" convolution; Chen et al. 2017, arXiv 1606.00915, section 3.1).
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
            # with a stride of 2 the last row and column of the padding were never used
            _set_ints(node, "strides", (1, 1))
            _set_ints(node, "pads", (top, left, bottom + 1, right + 1))
        elif after and kernel != (1, 1):
            _set_ints(node, "dilations", (2, 2))
            _set_ints(node, "pads", tuple(2 * pad for pad in _ints(node, "pads", (0, 0, 0, 0))))


def class_texts() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lemmas and definitions (WordNet's) of the 1000 ImageNet classes, in the order of the classifier.

    Source: data files of timm; ``timm.data.ImageNetInfo`` reads the same files, but importing timm takes seconds.
    """
    from importlib.util import find_spec

    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise missing("text", "timm", "it contains the names of the ImageNet classes")
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
            "this version of timm stores the ImageNet names elsewhere",
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
