"""Functions on masks: mask files of other programs, RLE, sizes, regions and points in them, measures against others."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import (
    box_of,
    centroid_point,
    components,
    contour,
    contour_accuracy,
    decode_rle,
    deepest_points,
    depth,
    distinct,
    encode_rle,
    intersections,
    iou,
    iou_matrix,
    is_group,
    j_and_f,
    load_mask,
    mask_logits,
    polygon_mask,
    ranked_pairs,
    region_similarity,
    regular_points,
    score_clip,
    summarize,
    upsample,
    view_logits,
)

random = np.random.default_rng(7)
EMPTY = np.zeros((100, 100), bool)


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((5, 7), bool),
        np.ones((5, 7), bool),
        np.ones((1, 1), bool),
        random.random((31, 17)) > 0.5,
        random.random((31, 17)).T > 0.9,
        np.arange(900 * 7).reshape(900, 7) % 613 == 0,
    ],
)
def test_rle_brings_back_the_mask_and_is_what_coco_reads(mask):
    rle = encode_rle(mask)
    assert isinstance(rle["counts"], str) and rle["size"] == list(mask.shape)
    assert (decode_rle(rle) == mask).all() and decode_rle(rle).dtype == bool
    assert coco.area({"size": rle["size"], "counts": rle["counts"].encode()}) == mask.sum()


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [4, 5]},
        {"counts": "d0"},
        {"size": None, "counts": "d0"},
        {"size": ["a", 5], "counts": "d0"},
        {"size": [4], "counts": "d0"},
        {"size": [4, 5], "counts": None},
        {"size": [4, 5], "counts": ""},
        {"size": [4, 5], "counts": "abc"},
        {"size": [4, 5], "counts": "\u20ac"},
        {"size": [4, 6], "counts": "d0"},
        {"size": [1_000_000, 1_000_000], "counts": "d0"},
        {"size": [4, 5], "counts": encode_rle(np.eye(5, dtype=bool))["counts"]},
    ],
)
def test_a_damaged_rle_is_one_clear_error(rle):
    with pytest.raises(NbHelpersError, match="run-length"):
        decode_rle(rle)


def test_a_box_is_tight_and_ends_after_the_last_pixel():
    mask = np.zeros((10, 12), bool)
    assert box_of(mask) is None
    mask[3, 4] = True
    assert box_of(mask) == (4, 3, 5, 4)
    mask[9, 11] = True
    assert box_of(mask) == (4, 3, 12, 10)


def test_a_polygon_is_filled_x_first():
    mask = polygon_mask([(2, 1), (8, 1), (8, 4), (2, 4)], (10, 12))
    assert box_of(mask) == (2, 1, 9, 5) and mask.sum() == 7 * 4


def reference(logits, extent, size):
    """As SAM does it, written down plainly: enlarge by 4 and crop where the image was padded, then to image size."""
    values = torch.from_numpy(logits)[None, None]
    if tuple(extent) != logits.shape:
        values = torch.nn.functional.interpolate(values, scale_factor=4, mode="bilinear", align_corners=False)
        values = values[..., : round(extent[0] * 4), : round(extent[1] * 4)]
    return torch.nn.functional.interpolate(values, size, mode="bilinear", align_corners=False)[0, 0].numpy()


@pytest.mark.parametrize(
    ("extent", "size"),
    [((32, 32), (120, 160)), ((32, 32), (20, 9)), ((24, 32), (120, 160)), ((32, 21.3), (150, 100)), ((32, 32), (1, 1))],
)
def test_logits_are_enlarged_as_sam_does(extent, size):
    logits = random.normal(size=(32, 32)).astype(np.float32)
    out = upsample(logits, extent, size)
    assert out.shape == size and out.dtype == np.float32
    np.testing.assert_allclose(out, reference(logits, extent, size), atol=1e-5)


@pytest.mark.parametrize("extent", [(32, 32), (24, 32)])
def test_a_view_on_everything_is_the_whole_mask(extent):
    logits = random.normal(size=(32, 32)).astype(np.float32)
    size = (120, 160)
    view = view_logits(logits, extent, size, (0, 0, 160, 120), size)
    np.testing.assert_allclose(view, upsample(logits, extent, size), atol=1e-4)


@pytest.mark.parametrize("extent", [(32, 32), (24, 32)])
def test_a_view_at_natural_size_is_that_part_of_the_mask(extent):
    logits = random.normal(size=(32, 32)).astype(np.float32)
    whole = upsample(logits, extent, (120, 160))
    view = view_logits(logits, extent, (120, 160), (30, 20, 90, 60), (40, 60))
    np.testing.assert_allclose(view, whole[20:60, 30:90], atol=1e-4)


def test_a_view_of_a_huge_photo_costs_no_more_than_the_view():
    view = view_logits(np.ones((256, 256), np.float32), (256, 256), (60000, 90000), (0, 0, 90000, 60000), (40, 60))
    assert view.shape == (40, 60) and (view > 0).all()


def test_a_mask_prompt_is_clear_inside_and_outside():
    mask = np.zeros((120, 160), bool)
    mask[:60] = True
    logits = mask_logits(mask, (32, 32))
    assert logits.shape == (32, 32) and logits.dtype == np.float32
    np.testing.assert_allclose(logits[:16], 10, rtol=1e-5)
    np.testing.assert_allclose(logits[16:], -10, rtol=1e-5)


def disc(size=(60, 80), at=(40, 30), radius=15):
    y, x = np.mgrid[: size[0], : size[1]]
    return (x - at[0]) ** 2 + (y - at[1]) ** 2 <= radius**2


def written(tmp_path, pixels, name="mask.png", mode=None, **options):
    Image.fromarray(pixels, mode).save(tmp_path / name, **options)
    return tmp_path / name


def rgba(colour, alpha):
    return np.dstack([np.full((*alpha.shape, 3), colour, np.uint8), alpha])


BLUR = cv2.GaussianBlur(disc().astype(np.float32) * 255, (0, 0), 3).round().astype(np.uint8)
FORMS = {
    "white on black": disc().astype(np.uint8) * 255,
    "0 and 1": disc().astype(np.uint8),
    "grey on black": disc().astype(np.uint8) * 100,
    "video range": np.where(disc(), 235, 16).astype(np.uint8),
    "red on black": np.where(disc()[:, :, None], (255, 0, 0), (0, 0, 0)).astype(np.uint8),
    "dark blue on black": np.where(disc()[:, :, None], (0, 0, 90), (0, 0, 0)).astype(np.uint8),
    "dark cut-out": rgba((20, 10, 5), disc().astype(np.uint8) * 255),
    "white cut-out": rgba((255, 255, 255), disc().astype(np.uint8) * 255),
    "soft cut-out": rgba((200, 10, 5), BLUR),
    "grey and alpha": np.dstack([disc(), disc()]).astype(np.uint8) * 255,
    "opaque alpha": np.dstack([*[disc().astype(np.uint8) * 255] * 3, np.full((60, 80), 255, np.uint8)]),
    "almost opaque alpha": np.dstack([*[disc().astype(np.uint8) * 255] * 3, np.where(np.eye(60, 80), 254, 255)]).astype(np.uint8),
    "soft": BLUR,
    "1 bit": disc(),
    "16 bits": disc().astype(np.uint16) * 65535,
    "0 and 1 in 16 bits": disc().astype(np.uint16),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_mask_of_any_form_covers_the_same(tmp_path, form, suffix):
    mask = load_mask(written(tmp_path, FORMS[form], f"mask{suffix}"), (60, 80))
    wanted = BLUR > 127 if "soft" in form else disc()
    assert mask.dtype == bool and (mask == wanted).all()
    assert (load_mask(FORMS[form]) == wanted).all()


def test_a_mask_as_a_jpeg_is_cut_at_one_half(tmp_path):
    for colour in (FORMS["white on black"], FORMS["red on black"]):
        mask = load_mask(written(tmp_path, colour, "mask.jpg", quality=80))
        assert (mask ^ disc()).sum() < 0.1 * disc().sum()


def test_floats_from_0_to_1_are_a_mask(tmp_path):
    for values in (disc().astype(np.float32), (BLUR / 255).astype(np.float32)):
        assert (load_mask(written(tmp_path, values, "mask.tif")) == (values > 0.5)).all()


@pytest.mark.parametrize("transparent", [False, True])
def test_a_palette_is_resolved(tmp_path, transparent):
    picture = Image.fromarray(disc().astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 128, 0, 0] if not transparent else [9, 9, 9, 9, 9, 9])
    picture.save(tmp_path / "mask.png", **({"transparency": 0} if transparent else {}))
    assert (load_mask(tmp_path / "mask.png") == disc()).all()


def test_a_mask_of_one_value_is_empty_or_covers_all():
    for value, covers in ((0, False), (1, True), (255, True)):
        assert (load_mask(np.full((4, 5), value, np.uint8)) == covers).all()
    with pytest.raises(NbHelpersError, match="ambiguous") as told:
        load_mask(np.full((4, 5), 128, np.uint8))
    assert "128 everywhere" in told.value.given


def labels(*values):
    out = np.zeros((60, 80), np.uint8)
    for index, value in enumerate(values):
        out[10:50, 10 + 20 * index : 25 + 20 * index] = value
    return out


PHOTO = cv2.GaussianBlur(random.integers(0, 256, (60, 80, 3), np.uint8), (0, 0), 2)
PHOTO = cv2.normalize(PHOTO, None, 0, 255, cv2.NORM_MINMAX)
UNCLEAR = {
    "a photo": (PHOTO, "colours"),
    "a grey photo": (PHOTO[:, :, 0], "values"),
    "labels 0 1 2": (labels(1, 2), "values 0, 1, 2"),
    "three greys": (labels(128, 255), "values 0, 128, 255"),
    "an object and void": (labels(1, 255), "values 0, 1, 255"),
    "two colours": (np.dstack([labels(255, 0), labels(0, 255), labels(0, 0)]), "(255, 0, 0)"),
    "a small object of another colour": (
        np.dstack([labels(255, 0), np.pad(np.full((6, 6), 255, np.uint8), ((2, 52), (2, 72))), labels(0, 0)]),
        "(0, 255, 0)",
    ),
    "red on white": (np.where(disc()[:, :, None], (255, 0, 0), (255, 255, 255)).astype(np.uint8), "(255, 255, 255)"),
    "three opacities": (rgba((9, 9, 9), labels(128, 255)), "values 0, 128, 255"),
    "faint": (BLUR // 4, "values"),
}


@pytest.mark.parametrize("form", UNCLEAR)
def test_an_ambiguous_mask_is_refused_with_the_values_found(tmp_path, form):
    pixels, named = UNCLEAR[form]
    with pytest.raises(NbHelpersError, match="ambiguous") as told:
        load_mask(written(tmp_path, pixels))
    assert named in told.value.given and "mask.png" in told.value.given


def test_labels_that_were_compressed_are_refused(tmp_path):
    big = cv2.resize(labels(128, 255), (800, 600), interpolation=cv2.INTER_NEAREST)
    with pytest.raises(NbHelpersError, match="ambiguous"):
        load_mask(written(tmp_path, big, "mask.jpg"))


def test_a_wide_feather_is_no_photo():
    wide = cv2.GaussianBlur(cv2.resize(FORMS["white on black"], (800, 600)), (0, 0), 25)
    assert (load_mask(wide) == (wide > (int(wide.min()) + int(wide.max())) / 2)).all()


def test_values_that_are_no_numbers_are_refused(tmp_path):
    values = disc().astype(np.float32)
    values[0, 0] = np.nan
    with pytest.raises(NbHelpersError, match="no numbers"):
        load_mask(written(tmp_path, values, "mask.tif"))


def test_several_pages_are_refused(tmp_path):
    pages = [Image.fromarray(FORMS["white on black"]) for _ in range(3)]
    pages[0].save(tmp_path / "mask.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(NbHelpersError, match="ambiguous") as told:
        load_mask(tmp_path / "mask.tif")
    assert "3 pictures" in told.value.given


def test_a_mask_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = written(tmp_path, FORMS["white on black"], exif=exif)
    assert (load_mask(path, (80, 60)) == np.rot90(disc(), -1)).all()


def test_a_mask_of_another_size_is_refused_with_both(tmp_path):
    path = written(tmp_path, FORMS["white on black"])
    with pytest.raises(NbHelpersError, match="another size") as told:
        load_mask(path, (30, 40))
    assert "80 x 60" in told.value.given and "40 x 30" in told.value.expected
    with pytest.raises(NbHelpersError, match="another size") as told:
        load_mask(path, (80, 60))
    assert "90 degrees" in told.value.do
    with pytest.raises(NbHelpersError, match="another size"):
        load_mask(disc(), (80, 60))


def test_our_own_masks_and_cut_outs_are_read_back(tmp_path):
    from nbhelpers.export.masks import save_cutout, save_mask
    from nbhelpers.product_matching.report import mask_picture

    photo = random.integers(0, 256, (60, 80, 3), np.uint8)
    for path in (
        save_mask(tmp_path / "m.png", disc()),
        save_cutout(tmp_path / "c.png", photo, disc()),
        written(tmp_path, mask_picture(disc())),
    ):
        assert (load_mask(path, (60, 80)) == disc()).all()


def test_a_missing_mask_is_one_clear_error(tmp_path):
    with pytest.raises(NbHelpersError, match="no such picture"):
        load_mask(tmp_path / "no.png")


def uncompressed(mask):
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


@pytest.mark.parametrize("mask", [disc(), ~disc(), np.ones((3, 4), bool), np.zeros((3, 4), bool)])
def test_runs_as_a_list_are_decoded(mask):
    assert (decode_rle(uncompressed(mask)) == mask).all() and decode_rle(uncompressed(mask)).dtype == bool
    again = coco.frPyObjects(uncompressed(mask), *mask.shape)
    assert (coco.decode(again) == mask).all(), "pycocotools reads them alike"


@pytest.mark.parametrize(
    ("rle", "size", "named"),
    [
        ({"size": [4, 5], "counts": [3, 4]}, None, "cover 7 pixels, but size [4, 5] has 20"),
        ({"size": [4, 5], "counts": [3, 40]}, None, "cover 43 pixels"),
        ({"size": [4, 5], "counts": [23, -3]}, None, "run 1 is negative: -3"),
        ({"size": [4, 5], "counts": [2.5, 17.5]}, None, "not a list of ints"),
        ({"size": [4, 5], "counts": []}, None, "not a list of ints"),
        ({"size": [5, 4], "counts": [20]}, (4, 5), "height and width swapped"),
        ({"size": [2, 10], "counts": [20]}, (4, 5), "size [2, 10] is not [4, 5]"),
        ({"size": [0, 5], "counts": [0]}, None, "has no pixels"),
        ({"size": [4, 5], "counts": encode_rle(np.eye(5, dtype=bool))["counts"]}, None, "cover 25 pixels"),
        ([[1.0, 1, 3, 1, 3, 3]], None, "polygons"),
        ({"format": "rle", "rle": [0, 0, 1, 64]}, None, "Label Studio"),
        ({"rle": [1, 3], "left": 4, "top": 5, "width": 2, "height": 2}, None, "CVAT"),
    ],
)
def test_what_is_wrong_with_an_rle_is_named(rle, size, named):
    with pytest.raises(NbHelpersError, match="run-length") as told:
        decode_rle(rle, size)
    assert named in str(told.value.given)


def test_iou_of_two_masks():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert iou(a, b) == 1
    a[:2], b[1:3] = True, True
    assert iou(a, b) == pytest.approx(4 / 12)
    with pytest.raises(NbHelpersError, match="different size"):
        iou(a, b[:2])


def block(rows, columns, size=(100, 100)):
    mask = np.zeros(size, bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


def test_region_similarity_is_intersection_over_union():
    assert region_similarity(block((0, 10), (0, 10)), block((0, 10), (5, 15))) == pytest.approx(50 / 150)
    assert region_similarity(EMPTY, EMPTY) == 1
    assert region_similarity(EMPTY, block((0, 10), (0, 10))) == 0


def test_the_contour_runs_above_and_left_of_the_change():
    mask = block((1, 3), (1, 3), (5, 5))
    expected = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    assert np.array_equal(contour(mask), expected)
    assert not contour(np.ones((5, 5), bool)).any()
    touching = block((0, 5), (3, 5), (5, 5))  # the frame's own edge is no contour
    assert np.array_equal(np.argwhere(contour(touching)), [[row, 2] for row in range(5)])


def test_a_contour_within_the_tolerance_is_matched_and_beyond_it_is_not():
    # of a straight edge that is shifted, all pixels are off by the same distance
    edge = block((0, 100), (0, 50))
    assert int(np.ceil(0.008 * np.hypot(100, 100))) == 2
    assert contour_accuracy(edge, block((0, 100), (0, 52))) == 1
    assert contour_accuracy(edge, block((0, 100), (0, 53))) == 0
    assert contour_accuracy(edge, block((0, 100), (0, 53)), bound_th=3) == 1


def test_contour_accuracy_is_the_harmonic_mean_of_precision_and_recall():
    truth = block((0, 100), (0, 20))  # one edge of 100 pixels
    found = truth | block((0, 100), (60, 80))  # two more edges, each of 100
    assert contour_accuracy(truth, found) == pytest.approx(2 * (1 / 3) / (1 / 3 + 1))
    assert contour_accuracy(found, truth) == pytest.approx(2 * (1 / 3) / (1 / 3 + 1))


@pytest.mark.parametrize(
    ("truth", "found", "value"),
    [(EMPTY, EMPTY, 1), (EMPTY, block((9, 20), (9, 20)), 0), (block((9, 20), (9, 20)), EMPTY, 0)],
)
def test_frames_without_the_object(truth, found, value):
    assert contour_accuracy(truth, found) == value
    assert j_and_f(truth, found) == value


def boundary_measure_by_hand(truth, found):
    """F with every distance between two contour pixels, instead of a dilation."""
    radius = np.ceil(0.008 * np.hypot(*truth.shape))
    lines = []
    for mask in (truth, found):
        rows, columns = mask.shape
        lines.append(
            [
                (row, column)
                for row in range(rows)
                for column in range(columns)
                if len(
                    {mask[y, x] for y in (row, min(row + 1, rows - 1)) for x in (column, min(column + 1, columns - 1))}
                )
                > 1
            ]
        )
    true, asked = (np.array(line, float).reshape(-1, 2) for line in lines)
    if not len(true) or not len(asked):
        return float(len(true) == len(asked))
    distance = np.hypot(*(true[:, None] - asked).transpose(2, 0, 1))
    recall, precision = ((distance.min(axis) <= radius).mean() for axis in (1, 0))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(6))
def test_ragged_masks_are_measured_as_the_definitions_say(seed):
    import cv2

    rng = np.random.default_rng(seed)
    size = (48, 130)  # a radius of 2 pixels
    smooth = cv2.GaussianBlur(rng.normal(size=(*size, 2)), (0, 0), rng.uniform(1, 5))
    truth = smooth[..., 0] > smooth[..., 0].std() * rng.uniform(0, 2)
    found = smooth @ (1, rng.uniform(0, 1)) > smooth[..., 0].std()
    assert contour_accuracy(truth, found) == pytest.approx(boundary_measure_by_hand(truth, found))
    both, either = (truth & found).sum(), (truth | found).sum()
    assert region_similarity(truth, found) == pytest.approx(both / either)


def test_j_and_f_is_their_mean():
    truth, found = block((0, 100), (0, 50)), block((0, 100), (0, 53))
    assert j_and_f(truth, found) == pytest.approx((50 / 53 + 0) / 2)


def test_masks_of_different_size_are_refused():
    with pytest.raises(NbHelpersError, match="different size"):
        contour_accuracy(EMPTY, EMPTY[1:])


def test_a_clip_is_scored_frame_by_frame():
    values = score_clip([EMPTY, block((0, 10), (0, 10))], [EMPTY, EMPTY])
    assert values.tolist() == [[1, 1], [0, 0]]
    with pytest.raises(NbHelpersError, match="not every frame"):
        score_clip([EMPTY, EMPTY], [EMPTY])


def test_mean_recall_and_decay_over_quarters():
    summary = summarize(np.array([1.0, 1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2, 0.2]))
    assert summary.mean == pytest.approx(0.6)
    assert summary.recall == pytest.approx(5 / 9)  # 0.5 itself is not above
    assert summary.decay == pytest.approx((1 + 1 + 0.8) / 3 - (0.4 + 0.2 + 0.2) / 3)  # quarters share a frame
    with pytest.raises(NbHelpersError, match="no frame"):
        summarize(np.empty(0))


def round_region(size, x, y, radius):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


RING = round_region((80, 100), 50, 40, 35) & ~round_region((80, 100), 50, 40, 20)


def test_components_are_numbered_from_the_largest_and_small_ones_left_out():
    mask = round_region((60, 120), 20, 30, 5) | round_region((60, 120), 80, 30, 20)
    mask[0, 0] = True
    labels = components(mask, 2)
    assert labels.max() == 2 and labels[30, 80] == 1 and labels[30, 20] == 2 and labels[0, 0] == 0
    assert components(np.zeros((4, 5), bool)).max() == 0


def test_the_deepest_point_of_a_ring_lies_inside_and_its_centroid_does_not():
    for x, y in deepest_points(RING, 20):
        assert RING[y, x]
    x, y = centroid_point(RING)[0]
    assert (x, y) == (50, 40) and not RING[y, x]


def test_a_large_region_gets_several_points_that_are_spread():
    region = np.zeros((100, 300), bool)
    region[10:90, 5:295] = True
    points = deepest_points(region, 40)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(len(points))
    assert 6 <= len(points) <= 16 and apart.min() >= 40
    assert depth(region)[points[0, 1], points[0, 0]] == depth(region).max()
    assert len(deepest_points(region, 40, most=3)) == 3


def test_a_region_at_the_border_is_pointed_at_in_its_middle():
    assert deepest_points(np.ones((41, 41), bool), 100).tolist() == [[20, 20]]


@pytest.mark.parametrize("find", [lambda m: deepest_points(m, 5), centroid_point, lambda m: regular_points(m, 5)])
def test_an_empty_region_has_no_points(find):
    assert find(np.zeros((9, 9), bool)).shape == (0, 2)


def test_one_cell_is_a_region():
    one = np.zeros((5, 7), bool)
    one[2, 6] = True
    assert deepest_points(one, 3).tolist() == [[6, 2]]


def test_regular_points_lie_inside():
    points = regular_points(RING, 10)
    assert len(points) > 10 and RING[points[:, 1], points[:, 0]].all()


def test_the_matrices_agree_with_masks_one_by_one():
    masks = np.random.default_rng(0).random((4, 20, 30)) > 0.6
    masks[3] = False
    shared = intersections(masks)
    for i in range(4):
        for j in range(4):
            assert shared[i, j] == (masks[i] & masks[j]).sum()
            wanted = iou(masks[i], masks[j]) if (masks[i] | masks[j]).any() else 0
            assert iou_matrix(shared)[i, j] == pytest.approx(wanted)


def test_of_duplicates_the_most_confident_stays():
    a, b = round_region((60, 60), 30, 30, 20), round_region((60, 60), 31, 30, 20)
    other = round_region((60, 60), 10, 10, 5)
    shared = intersections(np.stack([a, b, other]))
    assert distinct(shared, np.array([0.7, 0.9, 0.1]), 0.8).tolist() == [1, 1, 2]
    assert distinct(shared, np.array([0.7, 0.9, 0.1]), 0.99).tolist() == [0, 1, 2]


def test_a_mask_of_two_things_is_a_group_and_one_of_a_thing_in_two_parts_is_not():
    left, right = round_region((60, 120), 25, 30, 20), round_region((60, 120), 90, 30, 20)
    assert is_group(left | right, [left, right])
    assert not is_group(left | right, [left])
    assert not is_group(left, [left, right])


def test_ranked_pairs_keep_the_strong_decisions_of_a_circle():
    assert ranked_pairs(3, [(0, 1, 9.0), (1, 2, 5.0), (2, 0, 1.0)]) == [0, 1, 2]
    assert ranked_pairs(3, [(0, 1, 1.0), (1, 2, 5.0), (2, 0, 9.0)]) == [1, 2, 0]
    assert ranked_pairs(2, []) == [0, 1]
