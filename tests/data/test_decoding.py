"""Image files as people have them: what is converted, with the right pixels, and what is refused."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from robustbench_lite import data
from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
RGB = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def folder(top: Path, save: Callable[[Path], object], name: str = "x.png") -> Path:
    """Two class folders; the odd image is the first one."""
    for part in ("a", "b"):
        (top / part).mkdir(parents=True, exist_ok=True)
    save(top / "a" / name)
    Image.fromarray(RGB).save(top / "b" / "plain.png")
    return top


def loaded(top: Path, options: str = "") -> Dataset:
    return data.load(f"folder:{top}{options}")


def first(found: Dataset) -> np.ndarray:
    """The first image, (h, w, c), in levels of 255."""
    return np.asarray(found.batch([0])[0].permute(1, 2, 0).numpy() * 255)


def grey_as_colour(levels: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(levels, dtype=np.float64)[..., None], 3, axis=2)


PALETTE = Image.fromarray(RGB).quantize(16)
CMYK = Image.fromarray(RGB).convert("CMYK")
BITS = Image.fromarray((GREY > 127).astype(np.uint8) * 255).convert("1")
DEEP = (GREY.astype(np.uint16) << 8) + np.arange(48, dtype=np.uint16).reshape(6, 8) * 5
LA = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(GREY.T.copy().reshape(6, 8))))
RGBA = Image.fromarray(np.dstack([RGB, GREY]))


def on(level: int) -> np.ndarray:
    """RGBA on a grey of that level, in float arithmetic."""
    alpha = GREY[..., None] / 255.0
    return RGB * alpha + level * (1 - alpha)


#: the file's name, the image, what comes out of it, and what is told
CONVERTED: dict[str, tuple[str, Any, np.ndarray, str]] = {
    "palette": ("x.png", PALETTE, np.asarray(PALETTE.convert("RGB")), "1 with a palette"),
    "gif": ("x.gif", PALETTE, np.asarray(PALETTE.convert("RGB")), "1 with a palette"),
    "one bit": ("x.png", BITS, grey_as_colour(np.asarray(BITS) * 255), "1 of 1 bit"),
    "CMYK": ("x.tif", CMYK, np.asarray(CMYK.convert("RGB")), "1 in CMYK"),
    "16 bits of a PNG": ("x.png", Image.fromarray(DEEP), grey_as_colour(np.round(DEEP / 257)), "1 of 16 bits, as 8"),
    "16 bits of a TIFF": ("x.tif", Image.fromarray(DEEP), grey_as_colour(np.round(DEEP / 257)), "1 of 16 bits, as 8"),
    "16 bits of a PGM": ("x.pgm", Image.fromarray(DEEP), grey_as_colour(np.round(DEEP / 257)), "1 of 16 bits, as 8"),
    "alpha": ("x.png", RGBA, on(255), "1 with an alpha channel, on white"),
    "opaque alpha": ("x.png", Image.fromarray(RGB).convert("RGBA"), RGB, "1 with an alpha channel, on white"),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_other_pixel_formats_are_converted_and_counted(tmp_path: Path, case: str) -> None:
    name, image, expected, told = CONVERTED[case]
    found = loaded(folder(tmp_path, image.save, name))
    assert np.abs(first(found) - expected).max() <= (1 if case == "alpha" else 1e-4)
    assert f"2 images 3x6x8: {told}; levels" in found.notes[0]
    assert sum(found.provenance["converted"].values()) == 1


def test_of_16_bits_in_colour_the_upper_8_are_read(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (6, 8, 3), dtype=np.uint16)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    head = struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0)
    png = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    found = loaded(folder(tmp_path, lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + png)))
    assert np.array_equal(first(found).round(), deep >> 8)
    assert "1 of 16 bits in colour, of which the upper 8 are read" in found.notes[0]


@pytest.mark.parametrize(
    "name", ["x.JPG", "x.Jpeg", "x.jpe", "x.JFIF", "x.webp", "x.tif", "x.BMP", "x.jp2", "x.avif", "x.tga", "x.pcx"]
)
def test_the_usual_suffixes_are_read_in_any_case(tmp_path: Path, name: str) -> None:
    kind = {".jpe": "JPEG", ".jfif": "JPEG", ".tif": "TIFF", ".jp2": "JPEG2000"}.get(Path(name).suffix.lower())
    try:
        found = loaded(folder(tmp_path, lambda path: Image.fromarray(RGB).save(path, kind), name))
    except (OSError, KeyError):
        pytest.skip(f"this Pillow writes no {name}")
    assert len(found) == 2
    assert first(found).shape == (6, 8, 3)


@pytest.mark.parametrize("background, level", [("white", 255), ("black", 0)])
def test_transparency_shows_the_background(tmp_path: Path, background: str, level: int) -> None:
    found = loaded(folder(tmp_path, RGBA.save), f";background={background}")
    assert np.abs(first(found) - on(level)).max() <= 1
    dropped = loaded(tmp_path, ";background=none")
    assert np.array_equal(first(dropped).round(), RGB)
    assert len({found.digest(), dropped.digest()}) == 2


def test_a_palette_with_a_transparent_colour_shows_the_background(tmp_path: Path) -> None:
    image = Image.new("P", (8, 6), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, 4, 6))
    found = loaded(folder(tmp_path, lambda path: image.save(path, transparency=0)))
    assert first(found)[0, 0].round().tolist() == [200, 100, 50]
    assert first(found)[0, 7].round().tolist() == [255, 255, 255]


@pytest.mark.parametrize("colour, visible", [(0, "white"), (255, "black")])
def test_a_picture_in_the_alpha_channel_does_not_become_one_colour(tmp_path: Path, colour: int, visible: str) -> None:
    image = Image.merge("RGBA", (*[Image.new("L", (8, 6), colour)] * 3, Image.fromarray(GREY)))
    folder(tmp_path, image.save)
    shown = first(loaded(tmp_path, f";background={visible}"))[..., 0]
    assert np.abs(shown - (255 - GREY if colour == 0 else GREY)).max() <= 1
    told = [
        note for note in loaded(tmp_path, f";background={visible}").notes if "alpha channel alone in 1 of 1" in note
    ]
    assert len(told) == 1
    hidden = {"white": "black", "black": "white"}[visible]
    with pytest.raises(UserError, match=rf"x\.png is one colour on a {hidden} background.*;background={visible}"):
        loaded(tmp_path, f";background={hidden}").batch([0])


def test_images_are_turned_as_exif_says(tmp_path: Path) -> None:
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        square = Image.fromarray(RGB[:, :6])
        top = tmp_path / str(turn)
        folder(top, lambda path, exif=exif, square=square: square.save(path, exif=exif))
        Image.fromarray(RGB[:, :6]).save(top / "b" / "plain.png")
        found = loaded(top)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(top / "a" / "x.png")))
        assert np.array_equal(first(found).round(), expected), turn
        assert ("1 turned by EXIF" in found.notes[0]) == (turn > 1)
        left = loaded(top, ";exif=false")
        assert np.array_equal(first(left).round(), RGB[:, :6])
        assert (left.digest() == found.digest()) == (turn == 1)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
def test_a_turned_photo_has_the_size_that_it_is_seen_in(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    folder(tmp_path, lambda path: Image.fromarray(RGB.transpose(1, 0, 2).copy()).save(path, exif=exif), name)
    assert loaded(tmp_path).batch([0, 1]).shape == (2, 3, 6, 8)


def test_damaged_exif_data_are_no_orientation(tmp_path: Path) -> None:
    folder(tmp_path, lambda path: Image.fromarray(RGB).save(path, exif=b"Exif\0\0MM\0*\0\0\xff\xff"), "x.jpg")
    assert loaded(tmp_path).batch([0]).shape == (1, 3, 6, 8)


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    other = Image.fromarray(255 - RGB)
    folder(tmp_path, lambda path: Image.fromarray(RGB).save(path, save_all=True, append_images=[other]), "x.png")
    found = loaded(tmp_path)
    assert np.array_equal(first(found).round(), RGB)
    assert "1 with several frames, of which the first is taken" in found.notes[0]


def test_what_is_converted_is_part_of_the_digest_and_plain_images_keep_theirs(tmp_path: Path) -> None:
    plain = folder(tmp_path / "plain", Image.fromarray(RGB).save)
    assert loaded(plain, ";background=black").digest() == loaded(plain).digest()
    assert loaded(plain, ";exif=false").digest() == loaded(plain).digest()
    assert loaded(plain, ";size=4;interpolation=bicubic").digest() != loaded(plain, ";size=4").digest()


def test_bicubic_resizing_is_what_torchvision_does(tmp_path: Path) -> None:
    from torchvision.transforms import functional as F
    from torchvision.transforms.functional import InterpolationMode

    image = Image.fromarray(RNG.integers(0, 256, (31, 50, 3), dtype=np.uint8))
    folder(tmp_path, image.save)
    resized = F.center_crop(F.resize(image, 30, InterpolationMode.BICUBIC, antialias=True), [24, 24])
    found = loaded(tmp_path, ";size=24;resize=30;interpolation=bicubic")
    assert np.array_equal(first(found).round(), np.asarray(resized))


# -- scale --------------------------------------------------------------------------------------------------------


def masks(top: Path, white: int, kind: str = "L") -> Path:
    for name in ("a", "b"):
        (top / name).mkdir(parents=True)
        levels = RNG.integers(0, white + 1, (16, 16)).astype(np.uint8)
        levels[0, 0] = white
        Image.fromarray(levels).convert(kind).save(top / name / "x.png")
    return top


@pytest.mark.parametrize("white, told", [(1, "masks of 0 and 1"), (16, "white is 16"), (31, "white is 31")])
@pytest.mark.parametrize("kind", ["L", "RGB"])
def test_levels_of_another_scale_are_refused_unless_it_is_said(
    tmp_path: Path, white: int, told: str, kind: str
) -> None:
    top = masks(tmp_path / "set", white, kind)
    with pytest.raises(
        UserError, match=rf"largest value is {white}; probably .*{told}.*;scale={white} if .*;scale=255"
    ):
        loaded(top)
    stored = np.asarray(Image.open(top / "a" / "x.png"))
    found = loaded(top, f";scale={white}")
    assert np.allclose(first(found).squeeze() / 255, stored / white, atol=1e-6)
    assert found.batch([0]).max() == 1
    dark = loaded(top, ";scale=255")
    assert np.allclose(first(dark).squeeze(), stored, atol=1e-4)
    assert len({found.digest(), dark.digest()}) == 2
    with pytest.raises(UserError, match=rf"has the level {white}, but ;scale=0\.5 says that white is 0\.5"):
        loaded(top, ";scale=0.5")


def test_twelve_bits_in_sixteen_are_refused_unless_it_is_said(tmp_path: Path) -> None:
    deep = RNG.integers(0, 4096, (16, 16)).astype(np.uint16)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(deep).save(tmp_path / name / "x.png")
    with pytest.raises(
        UserError, match=r"have 16 bits, where white is 65535, but their largest level is 40\d\d; say ;scale=4095"
    ):
        loaded(tmp_path)
    found = loaded(tmp_path, ";scale=4095")
    assert np.allclose(first(found).squeeze() / 255, deep / 4095, atol=1e-6)
    assert loaded(tmp_path, ";scale=4095;size=8").batch([0]).shape == (1, 1, 8, 8)


def test_dark_photos_pass_and_are_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(RNG.integers(0, 60, (16, 16, 3), dtype=np.uint8)).save(tmp_path / name / "x.png")
    assert "levels 0 to 59, mean 29" in (note := loaded(tmp_path).notes[0])
    assert "(white is 255; if it is 59, say ;scale=59)" in note


def test_images_of_one_colour_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16), (255, 255, 255)).save(tmp_path / name / "x.png")
    with pytest.raises(UserError, match="every pixel is 255; there is nothing on the images"):
        loaded(tmp_path)


# -- refused ------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(path: Path, side: int = 60_000) -> None:
    """A PNG of a few bytes that claims billions of pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


#: file, how it is written, what is told
REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "bomb": ("x.png", bomb, r"x\.png claims .*pixels, which no memory should be given for"),
    "smaller bomb": ("x.png", lambda path: bomb(path, 14_000), r"x\.png claims more than 178,956,970 pixels"),
    "float": ("x.tif", Image.fromarray(GREY.astype(np.float32)).save, r"x\.tif has pixels of type F; accepted: grey or RGB"),
    "32 bits": ("x.tif", Image.fromarray(GREY.astype(np.int32)).save, r"x\.tif has pixels of type I; accepted"),
    "empty": ("x.jpg", lambda path: path.write_bytes(b""), r"x\.jpg is not an image that can be read"),
    "a page": ("x.jpg", lambda path: path.write_text("<html>403</html>"), r"x\.jpg is not an image that can be read"),
    "LAB": ("x.tif", lambda path: Image.fromarray(RGB, "RGB").convert("RGB").save(path) or lab(path), "of type LAB"),
    "PostScript": ("x.png", lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image"),
}  # fmt: skip


def lab(path: Path) -> None:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    change = ImageCms.buildTransform(profiles[0], profiles[1], "RGB", "LAB")
    made = ImageCms.applyTransform(Image.fromarray(RGB), change)
    assert made is not None
    made.save(path)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_meant_is_refused_from_the_header(tmp_path: Path, case: str) -> None:
    name, write, message = REFUSED[case]
    folder(tmp_path, write, name)
    with pytest.raises(UserError, match=message):
        loaded(tmp_path)


def test_the_limit_of_pixels_holds_where_other_code_has_lifted_pillows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    folder(tmp_path, bomb)
    with pytest.raises(UserError, match="claims 60,000 x 60,000 pixels"):
        loaded(tmp_path)


def test_a_torn_image_is_refused_even_where_other_code_lets_them_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    big = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    folder(tmp_path, big.save, "x.jpg")
    big.save(tmp_path / "b" / "plain.png")
    path = tmp_path / "a" / "x.jpg"
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(UserError, match=r"x\.jpg cannot be decoded"):
        loaded(tmp_path).batch([0])
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_strip_that_would_fill_the_memory_when_it_is_resized_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, Image.fromarray(RNG.integers(0, 256, (1, 60_000, 3), dtype=np.uint8)).save)
    with pytest.raises(UserError, match=r"x\.png would have 13,440,000 x 224 pixels after its shorter side is resized"):
        loaded(tmp_path, ";size=224").batch([0])


def test_all_unreadable_files_are_counted_in_one_sentence(tmp_path: Path) -> None:
    folder(tmp_path, Image.fromarray(RGB).save)
    for number in range(5):
        (tmp_path / "a" / f"bad{number}.png").write_bytes(b"no")
    with pytest.raises(
        UserError, match=r"bad0\.png is not an image .*; 4 more cannot be used: .*bad1.png, .*bad3.png, …"
    ):
        loaded(tmp_path)


# -- skipped ------------------------------------------------------------------------------------------------------


def test_other_files_are_counted_and_told(tmp_path: Path) -> None:
    folder(tmp_path, Image.fromarray(RGB).save)
    for name in ("a/1.txt", "a/2.TXT", "b/.DS_Store", "a/._x.png", "a/photo.heic", "b/noext", "readme.md", "loose.png"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("a/.thumbnails/t.png", "__MACOSX/a/m.png", "a/__MACOSX/m.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB).save(tmp_path / name)
    found = loaded(tmp_path)
    assert len(found) == 2
    told = "\n".join(found.notes)
    assert "5 files are no images: .txt (2)" in told
    assert ".DS_Store (1)" in told
    assert "._* (1)" in told
    assert "1 file is in formats that are not read: .heic (1); save them as PNG" in told
    assert "1 image lies beside the class folders, left out" in told
    assert found.provenance["skipped"]
    (tmp_path / "loose.png").unlink()
    for name in ("a/1.txt", "a/2.TXT", "b/.DS_Store", "a/._x.png", "b/noext"):
        (tmp_path / name).unlink()
    (tmp_path / "a/1.txt").write_bytes(b"x")
    assert "1 file is no image: .txt (1)" in "\n".join(loaded(tmp_path).notes)


def test_a_class_of_files_that_are_not_read_says_which(tmp_path: Path) -> None:
    folder(tmp_path, lambda path: path.write_bytes(b"x"), "x.heic")
    with pytest.raises(UserError, match=r"a has no images; accepted: .*formats that are not read: \.heic \(1\)"):
        loaded(tmp_path)


def test_links_to_nothing_and_linked_folders_are_counted(tmp_path: Path) -> None:
    folder(tmp_path, Image.fromarray(RGB).save)
    (tmp_path / "a/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "a/more").symlink_to(tmp_path / "b")
    found = loaded(tmp_path)
    assert len(found) == 2
    assert "2 names are not read: links to nothing (1), linked folders (1)" in "\n".join(found.notes)


def test_a_class_that_is_a_link_to_nothing_is_refused_because_the_others_would_be_numbered_without_it(
    tmp_path: Path,
) -> None:
    folder(tmp_path, Image.fromarray(RGB).save)
    (tmp_path / "aa").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"aa is a link to nothing, and may be a class; mend it, or remove it"):
        loaded(tmp_path)


def test_images_beside_the_class_folders_are_called_images(tmp_path: Path) -> None:
    folder(tmp_path, Image.fromarray(RGB).save)
    Image.fromarray(RGB).save(tmp_path / "loose.png")
    told = "\n".join(loaded(tmp_path).notes)
    assert "1 image lies beside the class folders, left out" in told
    assert "no image" not in told


def both(top: Path, pixels: np.ndarray) -> Path:
    """The same image in two classes."""
    for part in ("a", "b"):
        (top / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(top / part / "x.png")
    return top


@pytest.mark.parametrize("alpha", [1, 5])
def test_images_that_are_nearly_transparent_are_refused_with_the_way_to_their_colours(
    tmp_path: Path, alpha: int
) -> None:
    both(tmp_path, np.dstack([RGB, np.full((6, 8), alpha, dtype=np.uint8)]))
    with pytest.raises(UserError, match=r"nearly nothing is on the images; say ;background=none"):
        loaded(tmp_path)
    np.testing.assert_array_equal(first(loaded(tmp_path, ";background=none")), RGB)
    assert loaded(tmp_path, ";scale=255").batch([0]).min() > 0.97


def test_faint_images_are_refused_unless_they_are_said_to_be_so(tmp_path: Path) -> None:
    both(tmp_path, 250 + RGB // 64)
    with pytest.raises(UserError, match=r"between 250 and 253, where white is 255: .*; say ;scale=255 if they are so"):
        loaded(tmp_path)
    np.testing.assert_allclose(first(loaded(tmp_path, ";scale=255")), 250 + RGB // 64, atol=1e-4)


def test_twelve_bits_in_sixteen_among_images_of_8_bits_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, Image.fromarray(DEEP >> 4).save)
    with pytest.raises(UserError, match=r"x\.png has 16 bits, .*and others have 8 bits; save all with 8 bits"):
        loaded(tmp_path)


def test_the_hint_of_a_scale_is_in_the_levels_of_the_file(tmp_path: Path) -> None:
    both(tmp_path, DEEP >> 2)
    assert "(white is 65535; if it is 16383, say ;scale=16383)" in loaded(tmp_path).notes[0]
    assert "1 of 16 bits" not in loaded(tmp_path, ";scale=16383").notes[0]
    assert "2 of 16 bits; levels" in loaded(tmp_path, ";scale=16383").notes[0]


def test_masks_among_photos_are_told(tmp_path: Path) -> None:
    folder(tmp_path, Image.fromarray(GREY // 200).save)
    assert "1 of 2 looked at has no level above 31, where white is 255" in "\n".join(loaded(tmp_path).notes)
