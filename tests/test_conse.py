"""Dense ConSE: its formulas on tiny networks of the real architecture, and what the real weights see."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.models.conse import ConseSettings, ConseTextEncoder, DenseClassifier, class_texts, raise_stuff
from nbhelpers.models.load import load
from nbhelpers.models.minilm import SentenceEncoder
from nbhelpers.models.protocols import TextEncoder
from nbhelpers.weights import sample

CLASSES, DEPTH = 1000, 8
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "cat", "dog", "car", "grass", "##s"]


def tiny_graph(side=64, classes=CLASSES, seed=0):
    """Channels last, five steps of 2, pooling, one linear layer, softmax: the outline of the Keras EfficientNet."""
    rng = np.random.default_rng(seed)
    nodes, tensors = [helper.make_node("Transpose", ["pixels"], ["x0"], perm=[0, 3, 1, 2])], []

    def add(name, array):
        tensors.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    depth = 3
    for step in range(1, 6):
        kernel = add(f"k{step}", rng.normal(0, 0.5, (DEPTH, depth, 3, 3)) * (0.02 if step == 1 else 1))
        nodes.append(
            helper.make_node(
                "Conv", [f"x{step - 1}", kernel], [f"y{step}"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]
            )
        )
        nodes.append(helper.make_node("Tanh", [f"y{step}"], [f"x{step}"]))
        depth = DEPTH
    kernel = add("k6", rng.normal(0, 0.5, (DEPTH, DEPTH, 3, 3)))
    nodes.append(helper.make_node("Conv", ["x5", kernel], ["features"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    nodes += [
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Squeeze", ["pooled"], ["flat"], axes=[2, 3]),
        helper.make_node("MatMul", ["flat", add("weight", rng.normal(size=(DEPTH, classes)))], ["product"]),
        helper.make_node("Add", ["product", add("bias", rng.normal(size=classes))], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["predictions"], axis=1),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", side, side, 3])
    answer = helper.make_tensor_value_info("predictions", TensorProto.FLOAT, ["n", classes])
    graph = helper.make_graph(nodes, "tiny", [pixels], [answer], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8)


@pytest.fixture(scope="module")
def graph_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "classifier.onnx"
    onnx.save(tiny_graph(), str(path))
    return path


@pytest.fixture(scope="module")
def bert_files(tmp_path_factory):
    """A random BERT of three layers with a tokenizer of a dozen words, as transformers writes them."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    bert = BertModel(config, add_pooling_layer=False).eval()
    save_file({k: v.contiguous() for k, v in bert.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    return bert, (folder / "model.safetensors", folder / "config.json", folder / "tokenizer.json")


class Sentences:
    """Stands in for the sentence encoder: a fixed random unit vector for each text."""

    def __call__(self, texts):
        vectors = [np.random.default_rng(list(text.encode())).normal(size=16) for text in texts]
        return np.array([v / np.linalg.norm(v) for v in vectors], np.float32)


@pytest.fixture(scope="module")
def tiny(graph_file):
    settings = ConseSettings(scales=(64, 96), side=24, radius=2)
    return ConseTextEncoder(DenseClassifier.from_file(graph_file), Sentences(), settings)


def test_the_mean_over_the_places_is_what_the_pooled_classifier_says(graph_file, photo):
    image = photo[:64, :64]
    (expected,) = onnxruntime.InferenceSession(str(graph_file)).run(None, {"pixels": image[None].astype(np.float32)})
    logits = DenseClassifier.from_file(graph_file, dense=False).logits(image, (64, 64))
    assert logits.shape == (CLASSES, 2, 2)
    pooled = np.exp(logits.mean((1, 2)))
    np.testing.assert_allclose(pooled / pooled.sum(), expected[0], atol=1e-6)


def test_the_opened_stride_keeps_every_second_place(graph_file, photo):
    coarse = DenseClassifier.from_file(graph_file, dense=False).logits(photo, (96, 128))
    fine = DenseClassifier.from_file(graph_file).logits(photo, (96, 128))
    assert fine.shape == (CLASSES, 6, 8)
    np.testing.assert_allclose(fine[:, ::2, ::2], coarse, atol=1e-4)


def test_a_mirrored_look_is_turned_back(graph_file, photo):
    classifier = DenseClassifier.from_file(graph_file)
    twice = classifier.logits(np.ascontiguousarray(photo[:, ::-1]), (96, 128), mirrored=True)[:, :, ::-1]
    np.testing.assert_allclose(twice, classifier.logits(photo, (96, 128)), atol=1e-4)


def test_other_graphs_are_refused(tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(NbHelpersError, match="classifier cannot be loaded"):
        DenseClassifier.from_file(path)
    model = tiny_graph()
    del model.graph.node[-1]
    onnx.save(model, str(path))
    with pytest.raises(NbHelpersError, match="the graph ends in"):
        DenseClassifier.from_file(path)


def test_the_thousand_classes_have_their_names():
    lemmas, definitions = class_texts()
    assert len(lemmas) == len(definitions) == CLASSES
    assert lemmas[0].startswith("tench") and lemmas[281].startswith("tabby") and lemmas[999].startswith("toilet tissue")
    assert "fish" in definitions[0]


def test_sentence_embeddings_are_those_of_transformers(bert_files):
    import torch

    bert, files = bert_files
    encoder = SentenceEncoder.from_files(*files)
    sentences = ["a cat", "a photo of a dog", "grass", "cars " * 40, "猫 unknown"]
    codes = [encoder.tokenizer.encode(sentence).ids for sentence in sentences]
    assert max(map(len, codes)) == 32
    with torch.inference_mode():
        means = torch.stack([bert(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in codes])
    expected = torch.nn.functional.normalize(means, dim=1).numpy()
    np.testing.assert_allclose(encoder(sentences), expected, atol=1e-5)


def test_a_damaged_sentence_encoder_is_refused(bert_files, tmp_path):
    _bert, (weights, config, tokenizer) = bert_files
    cut = tmp_path / "model.safetensors"
    cut.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(NbHelpersError, match="sentence encoder cannot be loaded"):
        SentenceEncoder.from_files(cut, config, tokenizer)


def test_the_class_prior_is_removed(tiny):
    groups = [["cat"], ["dog"], ["grass", "lawn"]]
    full = ConseTextEncoder(tiny.classifier, tiny.sentences, ConseSettings(prior=1.0)).carry(groups)
    none = ConseTextEncoder(tiny.classifier, tiny.sentences, ConseSettings(prior=0.0)).carry(groups)
    assert full.shape == (4, CLASSES) and (full >= 0).all()
    np.testing.assert_allclose(full.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(full, none / none.sum(1, keepdims=True), atol=1e-6)


def test_a_class_that_means_another_name_more_is_taken_away(tiny):
    settings = ConseSettings(rivalry=50.0, min_similarity=-1.0, sharpness=1.0, visual_weight=0.0)
    encoder = ConseTextEncoder(tiny.classifier, tiny.sentences, settings)
    alike = np.concatenate([encoder._similarity(["zig"]), encoder._similarity(["zag"])])
    carry = encoder.carry([["zig"], ["zag"]])
    sure = np.abs(alike[0] - alike[1]) > 0.2
    assert sure.any()
    assert ((alike[0] > alike[1]) == (carry[0] > carry[1]))[sure].all()


def test_stuff_gets_no_class_that_a_countable_name_may_mean(tiny):
    settings = ConseSettings(min_similarity=0.2, visual_weight=0.0, prior=0.0)
    encoder = ConseTextEncoder(tiny.classifier, tiny.sentences, settings)
    own = encoder._similarity(["tractor"])[0] >= settings.min_similarity
    tractor, snow, grass = encoder.carry([["tractor"], ["snow"], ["grass"]])
    assert own.any() and (tractor[own] > 0).all()
    assert (snow[own] == 0).all() and (grass[own] == 0).all()
    assert (snow[~own] > 0).any() and (grass[~own] > 0).any()
    mountain, snow = encoder.carry([["mountain"], ["snow"]])  # stuff competes with stuff as before
    assert ((mountain > 0) & (snow > 0)).any()


def test_probabilities_sum_to_one_and_the_order_asked_is_kept(tiny, photo):
    answer = tiny.dense(photo, ["cat", ["grass", "lawn"], "car"])
    assert isinstance(tiny, TextEncoder)
    assert answer.names == ("cat", "grass", "car")
    assert answer.size == photo.shape[:2] and answer.probabilities.shape == (3, 18, 24)
    assert answer.probabilities.dtype == np.float32 and answer.probabilities.min() >= 0
    np.testing.assert_allclose(answer.probabilities.sum(0), 1, atol=1e-5)
    turned = tiny.dense(photo, ["car", "cat", ["grass", "lawn"]])
    np.testing.assert_allclose(turned.probabilities, answer.probabilities[[2, 0, 1]], atol=1e-4)


def test_of_several_names_the_strongest_counts(graph_file, photo):
    plain = ConseSettings(scales=(64,), flip=False, side=4, radius=0, presence=0.0)
    encoder = ConseTextEncoder(DenseClassifier.from_file(graph_file), Sentences(), plain)
    groups, image = [["cat"], ["dog", "car"]], photo[:64, :64]
    scores = np.einsum("nc,chw->nhw", encoder.carry(groups), encoder._classes(image, 64, False))
    expected = np.stack([scores[0], scores[1:].max(0)]) + plain.floor
    probabilities = encoder.dense(image, groups).probabilities
    np.testing.assert_allclose(probabilities, expected / expected.sum(0), atol=1e-5)


def test_a_name_that_is_all_over_the_photo_counts_more(graph_file, photo):
    asked, image = ["cat", "dog"], photo[:64, :64]
    options = {"scales": (64,), "flip": False, "side": 4, "radius": 0}
    classifier = DenseClassifier.from_file(graph_file)
    with_it, without = (
        ConseTextEncoder(classifier, Sentences(), ConseSettings(**options, presence=p))
        .dense(image, asked)
        .probabilities
        for p in (1.0, 0.0)
    )
    odds = (with_it[0] / with_it[1]) / (without[0] / without[1])
    np.testing.assert_allclose(odds, odds[0, 0], rtol=1e-3)
    assert (odds[0, 0] > 1) == (without[0].mean() > without[1].mean())


def test_stuff_gets_the_places_where_things_are_weak():
    things = np.array([[[1.0, 0.3, 0.04]], [[0.01, 0.01, 0.01]]], np.float32)
    scores = np.concatenate([things, np.array([[[3e-4, 3e-4, 3e-4]], [[1e-4, 1e-4, 1e-4]]], np.float32)])
    raise_stuff(scores, np.array([False, False, True, True]), 0.1)
    assert scores.argmax(0).tolist() == [[0, 0, 2]]
    np.testing.assert_array_equal(scores[:2], things)
    np.testing.assert_allclose(scores[2] / scores[3], 3, rtol=1e-5)
    alone = scores[2:].copy()
    raise_stuff(alone, np.array([True, True]), 0.1)
    np.testing.assert_array_equal(alone, scores[2:])


@pytest.mark.parametrize("names", [[], [""], ["cat", "  "], [[]], [["cat", ""]], ["cat", "dog", "Cat"]])
def test_empty_and_double_names_are_refused(tiny, photo, names):
    with pytest.raises(NbHelpersError, match=r"vocabulary is empty|no name|twice"):
        tiny.dense(photo, names)


@pytest.mark.parametrize(
    "names",
    [
        ["cat"],
        ["cat", "cats", "a cat"],
        ["猫", "собака", "قطة", "🐈"],
        ["{}", "{name}", "%s"],
        [f"word {i}" for i in range(500)],
    ],
    ids=["one", "near-duplicates", "scripts", "braces", "500"],
)
def test_unusual_vocabularies_give_a_sound_answer(tiny, photo, names):
    probabilities = tiny.dense(photo, names).probabilities
    assert len(probabilities) == len(names) and np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (3, 900), (900, 3)])
def test_unusual_sizes_give_a_sound_answer(tiny, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    answer = tiny.dense(image, ["cat", "dog"])
    assert answer.size == size and max(answer.probabilities.shape[1:]) <= 24
    np.testing.assert_allclose(answer.probabilities.sum(0), 1, atol=1e-5)


def test_fifty_megapixels(tiny):
    image = np.zeros((6000, 8400, 3), np.uint8)
    image[:, 4200:] = (200, 30, 90)
    assert tiny.dense(image, ["cat", "dog"]).probabilities.shape == (2, 17, 24)


def test_the_embeddings_of_the_classes_are_stored_and_a_damaged_file_is_rewritten(tiny, tmp_path):
    store, groups = tmp_path / "classes.npz", [("cat",), ("grass", "lawn")]

    def carried(sentences):
        return ConseTextEncoder(tiny.classifier, sentences, tiny.settings, store=store).carry(groups)

    def names_only(texts):
        assert len(texts) < CLASSES, "the classes are stored"
        return Sentences()(texts)

    np.testing.assert_array_equal(carried(Sentences()), tiny.carry(groups))
    np.testing.assert_array_equal(carried(names_only), tiny.carry(groups))
    for damaged in (b"", store.read_bytes()[:1000]):
        store.write_bytes(damaged)
        np.testing.assert_array_equal(carried(Sentences()), tiny.carry(groups))
    np.testing.assert_array_equal(carried(names_only), tiny.carry(groups))
    with np.load(store) as other:
        changed = {"texts": other["texts"][::-1], "embeddings": other["embeddings"]}
    np.savez(store, **changed)
    np.testing.assert_array_equal(carried(Sentences()), tiny.carry(groups))


@pytest.fixture(scope="module")
def encoder():
    return load("text_encoder", "conse-lite", "cpu")


def winners(encoder, image, names):
    return encoder.dense(image, names).probabilities.argmax(0)


@pytest.mark.weights("conse-lite")
def test_the_cat_is_a_cat(encoder):
    image = load_image(sample("chelsea"))
    won = winners(encoder, image, ["dog", "cat", "car", "person"])
    height, width = won.shape
    face = won[height // 5 : height * 4 // 5, width // 5 : width * 4 // 5]
    assert (face == 1).mean() > 0.9


@pytest.mark.weights("conse-lite")
def test_the_cup_is_a_cup(encoder):
    image = load_image(sample("coffee"))
    won = winners(encoder, image, ["dog", "cup", "car", "person", "boat"])
    height, width = won.shape
    assert (won[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] == 1).mean() > 0.8


@pytest.mark.weights("conse-lite")
@pytest.mark.parametrize("word", ["person", "woman"])
def test_a_person_is_found_though_imagenet_has_none(encoder, word):
    image = load_image(sample("astronaut"))
    won = winners(encoder, image, ["cat", "dog", word, "car", "bottle", "sheep"])
    height, width = won.shape
    assert (won[height // 2 :, width // 5 : width * 3 // 5] == 2).mean() > 0.8


@pytest.mark.weights("conse-lite")
def test_names_are_explained(encoder):
    told = encoder.explain(["dog", ["motorbike", "motorcycle"]])
    assert list(told) == ["dog", "motorbike", "motorcycle"]
    assert {name for name, _ in told["motorbike"]} & {"moped", "motor scooter"}
    assert all(0 <= share <= 1 for _, share in told["dog"])
