"""Pictures are read as a person would expect; everything else is one of four refusals."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import CenterCrop, Compose, Resize

from pgn.errors import EmptyBody, ImageTooLarge, NotAnImage, PromptedImageInvalid, UnreadableImage
from pgn.images import decode_rgb, fit_square, read_prompted, read_square

RED, WHITE = (255, 0, 0), (255, 255, 255)
REFUSALS = (EmptyBody, NotAnImage, UnreadableImage, ImageTooLarge)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces these sizes and holds no pixel."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")))
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def exif_block(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF as a camera with manners of its own writes it: (tag, type, count, four bytes of value) each."""
    rows = (struct.pack("<HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(rows) + bytes(4)


SIDEWAYS = (0x0112, 3, 1, b"\x06\0\0\0")  # orientation 6: the stored left is the top on view
ASCII = 2


class TestReadable:
    @pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "TIFF", "PPM", "JPEG", "WEBP", "MPO"])
    def test_every_announced_format_is_read(self, file_format):
        """The hint of a refusal names these formats, so they have to work."""
        image = decode_rgb(encoded(Image.new("RGB", (20, 10), RED), file_format))
        assert (image.mode, image.size) == ("RGB", (20, 10))
        assert np.abs(np.asarray(image, int) - RED).max() <= 2

    @pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
    def test_cmyk_becomes_the_colour_in_print(self, file_format):
        """Yellow and magenta ink give red."""
        image = decode_rgb(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), file_format))
        assert np.abs(np.asarray(image, int) - RED).max() <= 2

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
    def test_16_bit_grey_keeps_its_brightness(self, file_format):
        """Clipping at 255 would make every such image white."""
        levels = np.array([[0, 255, 256, 0x8001, 65535]], np.uint16)
        image = decode_rgb(encoded(Image.fromarray(levels), file_format))
        assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 128, 255]

    def test_16_bit_grey_of_a_large_image_costs_no_more_than_colour(self):
        """Widening each pixel to 64 bits would make a small file cost gigabytes."""
        data = encoded(Image.fromarray(np.zeros((1000, 1000), np.uint16)))
        tracemalloc.start()
        decode_rgb(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * 1000 * 1000

    def test_a_palette_becomes_its_colours(self):
        """Palette numbers are no brightness."""
        source = Image.new("RGB", (8, 8), RED)
        source.paste((0, 0, 255), (0, 0, 4, 8))
        image = decode_rgb(encoded(source.quantize(2)))
        assert (image.getpixel((0, 0)), image.getpixel((7, 0))) == ((0, 0, 255), RED)

    def test_a_transparent_palette_entry_is_white(self):
        """Icons and charts are drawn for a white page."""
        palette = Image.new("P", (8, 8), 1)
        palette.putpalette([*RED, 0, 255, 0])
        palette.paste(0, (0, 0, 4, 8))
        image = decode_rgb(encoded(palette, transparency=1))
        assert (image.getpixel((0, 0)), image.getpixel((7, 0))) == (RED, WHITE)

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
    def test_alpha_lies_on_white(self, file_format):
        """Half of red on white is pink; the colour under full transparency does not show."""
        image = Image.new("RGBA", (8, 8), (*RED, 128))
        image.paste((0, 0, 0, 0), (0, 0, 4, 8))
        options = {"lossless": True} if file_format == "WEBP" else {}
        pixels = np.asarray(decode_rgb(encoded(image, file_format, **options)), int)
        assert np.abs(pixels[:, :4] - WHITE).max() == 0
        assert np.abs(pixels[:, 4:] - (255, 127, 127)).max() <= 1

    def test_grey_with_alpha_lies_on_white(self):
        """Two channels are grey and alpha, not the first two of three."""
        assert decode_rgb(encoded(Image.new("LA", (4, 4), (0, 0)))).getpixel((0, 0)) == WHITE
        assert decode_rgb(encoded(Image.new("LA", (4, 4), (90, 255)))).getpixel((0, 0)) == (90, 90, 90)

    @pytest.mark.parametrize("mode", ["1", "L", "RGB"])
    def test_a_colour_declared_transparent_is_white(self, mode):
        """PNG has transparency without an alpha channel too."""
        colour = {"1": 0, "L": 7, "RGB": (7, 8, 9)}[mode]
        assert decode_rgb(encoded(Image.new(mode, (4, 4), colour), transparency=colour)).getpixel((0, 0)) == WHITE

    def test_a_16_bit_grey_declared_transparent_is_white(self):
        """Its neighbours by one step out of 65,536 are not."""
        values = np.array([[1000, 1001], [65535, 0]], np.uint16)
        data = encoded(Image.fromarray(values), "PNG", transparency=1000)
        assert np.asarray(decode_rgb(data))[..., 0].tolist() == [[255, 3], [255, 0]]

    def test_one_bit_is_black_and_white(self):
        """A fax has two colours, 0 and 255."""
        image = Image.new("1", (4, 4), 0)
        image.putpixel((1, 0), 1)
        assert np.asarray(decode_rgb(encoded(image)))[0, :2, 0].tolist() == [0, 255]

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_rotation_is_applied(self, orientation, file_format):
        """A phone writes sideways and says so; its owner never sees it sideways."""
        upright = Image.new("RGB", (40, 20), WHITE)
        upright.paste(RED, (0, 0, 10, 10))  # a red corner tells all eight orientations apart
        undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpositions that a viewer has to undo
        stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = decode_rgb(encoded(stored, file_format, exif=exif))
        assert image.size == (40, 20)
        assert np.abs(np.asarray(image, int)[2:7, 2:7] - RED).max() < 30
        assert np.asarray(image, int)[-8:, -8:].min() > 225

    @pytest.mark.parametrize("tag", [0x0100, 0x0128, 0x011A], ids=["ImageWidth", "ResolutionUnit", "XResolution"])
    def test_a_number_written_as_text_in_exif_does_not_keep_a_picture_from_being_turned(self, tag):
        """Only the orientation is read; writing the other tags anew, as Pillow does, fails on such a file."""
        data = encoded(noise(13, 9), "JPEG", exif=exif_block(SIDEWAYS, (tag, ASCII, 4, b"abc\0")))
        plain = decode_rgb(encoded(noise(13, 9), "JPEG"))
        assert np.array_equal(decode_rgb(data), plain.transpose(Image.Transpose.ROTATE_270))

    def test_what_xmp_says_of_the_orientation_counts_too(self):
        """Some editors leave EXIF alone and write it there."""
        data = encoded(noise(13, 9), "JPEG", xmp=b'<rdf:Description tiff:Orientation="6"/>')
        assert decode_rgb(data).size == (9, 13)

    @pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
    def test_of_an_animation_the_first_frame_is_taken(self, file_format):
        """A still has to be chosen; the first is what a viewer shows before it plays."""
        frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
        data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
        assert np.abs(np.asarray(decode_rgb(data), int) - RED).max() <= 2


class TestRefused:
    def test_nothing_is_no_image(self):
        """An empty body is its own mistake: a missing file, a wrong form field."""
        with pytest.raises(EmptyBody, match="0 bytes"):
            read_square(b"", 8, interpolation="bilinear")

    @pytest.mark.parametrize(
        "data", [b"hello", b"\x00" * 100, b"%PDF-1.7", b"<svg/>", b"RIFF\x10\x00\x00\x00WAVEfmt ", b"RIFF"]
    )
    def test_what_starts_like_no_image_is_unsupported(self, data):
        """Text, PDF and sound are 415, not damaged images."""
        with pytest.raises(NotAnImage, match=r"the bytes start with b'"):
            decode_rgb(data)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
    def test_a_truncated_image_is_unreadable(self, file_format):
        """Half an image would be answered with half the truth."""
        data = encoded(noise(60, 40), file_format)
        with pytest.raises(UnreadableImage, match="cannot be decoded"):
            decode_rgb(data[: len(data) // 2])

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so of the TIFF, then refuses it
    @pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\x00", b"P6"])
    def test_a_good_start_with_nonsense_behind_is_unreadable(self, start):
        """The answer tells the user of a damaged file, not the address of an object in memory."""
        with pytest.raises(UnreadableImage) as refusal:
            decode_rgb(start + b"nonsense" * 20)
        assert "object at" not in str(refusal.value)

    def test_a_tiff_whose_pixels_lie_beyond_every_file_is_unreadable(self):
        """Python's own complaint about a number of 64 bits would end a training in a traceback."""
        data = bytearray(encoded(noise(13, 9), "TIFF"))
        entry = data.index(struct.pack("<HH", 0x0111, 4))  # StripOffsets, 32 bits
        data[entry : entry + 12] = struct.pack("<HHII", 0x0111, 16, 1, len(data))  # 64 bits, which stand at the end
        with pytest.raises(UnreadableImage, match="cannot be decoded"):
            decode_rgb(bytes(data) + b"\xff" * 8)

    def test_what_is_wrong_with_a_file_is_said_once(self, caplog):
        """Pillow logs some damage of a TIFF before it raises it, and does not say of which file."""
        data = bytearray(encoded(noise(13, 9), "TIFF"))
        entry = data.index(struct.pack("<HH", 0x0115, 3))  # SamplesPerPixel, 16 bits
        data[entry : entry + 12] = struct.pack("<HHIHH", 0x0115, 3, 1, 200, 0)
        with pytest.raises(UnreadableImage, match="cannot be decoded"):
            decode_rgb(bytes(data))
        assert not caplog.records

    def test_exif_cut_short_is_unreadable(self):
        """Which way is up cannot be told."""
        data = encoded(noise(13, 9), "PNG", exif=b"Exif\0\0II*\0\x08")
        with pytest.raises(UnreadableImage, match="cannot be decoded"):
            decode_rgb(data)

    def test_floating_point_pixels_are_refused_with_a_way_out(self):
        """Nobody can tell what brightness 0.5 or 300.0 was meant to be."""
        with pytest.raises(UnreadableImage, match="floating-point") as refusal:
            decode_rgb(encoded(Image.new("F", (3, 3), 0.5), "TIFF"))
        assert "8 or 16 bits" in refusal.value.hint

    @pytest.mark.parametrize("side", [7_100, 12_000, 20_000, 2**31 - 1])
    def test_a_decompression_bomb_is_refused_before_it_is_decoded(self, side, monkeypatch):
        """A hundred bytes may announce terabytes; the header alone decides."""
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("the bomb was decoded"))
        with pytest.raises(ImageTooLarge, match="50,000,000 pixels"):
            decode_rgb(png_header(side, side))

    def test_the_limit_itself_is_allowed(self):
        """A limit of 200 pixels means that 200 pixels pass and 201 do not."""
        assert decode_rgb(encoded(noise(20, 10)), max_pixels=200).size == (20, 10)
        with pytest.raises(ImageTooLarge, match="21 x 10 pixels; the limit is 200"):
            decode_rgb(encoded(noise(21, 10)), max_pixels=200)


class TestSquare:
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("size", [(32, 32), (224, 224), (480, 320), (31, 57), (225, 224), (10, 7), (640, 13)])
    @pytest.mark.parametrize("side", [32, 56, 224])
    def test_equals_torchvisions_resize_and_crop(self, size, side, interpolation):
        """One grey level is rounding: here one resampling does what torchvision does in two steps."""
        image = noise(*size)
        steps = Compose([Resize(side, InterpolationMode(interpolation), antialias=True), CenterCrop(side)])
        ours = fit_square(image, side, interpolation)
        assert ours.shape == (side, side, 3)
        assert np.abs(ours.astype(int) - np.asarray(steps(image), int)).max() <= 1

    def test_a_square_of_the_right_size_is_left_alone(self):
        """Pictures that were prepared by the client lose nothing here."""
        image = noise(56, 56)
        assert np.array_equal(fit_square(image, 56, "bicubic"), np.asarray(image))

    @pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
    def test_a_very_long_image_costs_no_more_than_a_square(self, size):
        """Scaled whole, 1 x 20,000 pixels would become 224 x 4,480,000: three gigabytes."""
        data = encoded(Image.new("RGB", size, RED))
        assert (read_square(data, 224, interpolation="bicubic") == RED).all()

    def test_of_a_long_image_the_centre_is_seen(self):
        """Whoever holds a camera puts the thing in the middle."""
        image = Image.new("RGB", (90, 30), WHITE)
        image.paste(RED, (30, 0, 60, 30))
        assert (read_square(encoded(image), 30, interpolation="bilinear") == RED).all()


def _samples() -> list[bytes]:
    image, exif = noise(13, 9), Image.Exif()
    exif[0x0112] = 6
    return [
        *(encoded(image, name) for name in ("PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP")),
        *(encoded(image, name, exif=exif) for name in ("JPEG", "PNG", "WEBP")),
        encoded(image, "JPEG", exif=exif_block(SIDEWAYS, (0x0100, ASCII, 4, b"abc\0"), (0x8769, 4, 1, bytes(4)))),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image.convert("P"), transparency=3),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "MPO", save_all=True, append_images=[image]),
        encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
    ]


SAMPLES = _samples()
fuzz = settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged EXIF data and reads on
class TestPrompted:
    @pytest.mark.parametrize("rows", [0, 3, 16])
    def test_every_pixel_arrives_as_it_was(self, rows):
        """The prompts are in the pixels: one that moves is a prompt that changes."""
        pixels = np.random.default_rng(rows).integers(0, 256, (16 + rows, 16, 3), dtype=np.uint8)
        assert np.array_equal(read_prompted(encoded(Image.fromarray(pixels), "PNG"), 16), pixels)

    @pytest.mark.parametrize("size", [(15, 20), (17, 20), (16, 15), (16, 33), (160, 200)])
    def test_another_size_is_refused_not_scaled(self, size):
        """A resized prompt is no prompt."""
        with pytest.raises(PromptedImageInvalid, match=f"{size[0]} x {size[1]} pixels"):
            read_prompted(encoded(Image.new("RGB", size), "PNG"), 16)

    @pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "BMP"])
    def test_another_format_is_refused(self, file_format):
        """Most of them change pixels without a word."""
        with pytest.raises(PromptedImageInvalid, match="no PNG"):
            read_prompted(encoded(Image.new("RGB", (16, 20)), file_format), 16)

    def test_a_damaged_png_is_told_apart(self):
        """It was the right kind of file."""
        with pytest.raises(UnreadableImage):
            read_prompted(encoded(Image.new("RGB", (16, 20)), "PNG")[:40], 16)
        with pytest.raises(EmptyBody):
            read_prompted(b"", 16)


class TestAnyBytes:
    @fuzz
    @given(st.binary(max_size=200), st.sampled_from([b"", b"BM", b"II*\x00", b"P5", b"GIF89a", b"\xff\xd8\xff"]))
    def test_no_bytes_do_more_than_be_refused(self, data, start):
        """Whatever arrives is an image or one of four refusals, never a crash."""
        self.read(start + data)

    @fuzz
    @given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4))))
    def test_no_damage_does_more_than_be_refused(self, data, patches):
        """Damaged files reach the far corners of the decoders, where their own exceptions live."""
        damaged = bytearray(data)
        for place, patch in patches:
            start = int(place * len(damaged))
            damaged[start : start + 4] = patch
        self.read(bytes(damaged))

    @staticmethod
    def read(data: bytes) -> None:
        try:
            pixels = read_square(data, 16, interpolation="bilinear", max_pixels=1_000_000)
        except REFUSALS:
            return
        assert pixels.shape == (16, 16, 3)
