"""Pictures and videos of every kind that people have, whole and damaged."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from hypothesis import strategies as st
from PIL import Image

MODES = {
    "png": ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"],
    "jpg": ["RGB", "L", "CMYK"],
    "webp": ["RGB", "RGBA"],
    "bmp": ["RGB", "L", "P", "1"],
    "gif": ["P", "L", "RGB"],
    "tif": ["RGB", "RGBA", "L", "CMYK", "I;16", "F", "LAB", "YCbCr", "1", "I"],
    "ppm": ["RGB", "L"],
    "tga": ["RGB"],
    "ico": ["RGBA"],
    "pcx": ["RGB"],
    "eps": ["RGB"],
    "pdf": ["RGB"],
}
FORMATS = {"jpg": "JPEG", "tif": "TIFF"}
SIZES = [(1, 1), (1, 7), (16, 16), (33, 9), (2000, 1)]


@cache
def picture(suffix: str, mode: str, size: tuple[int, int], extra: str) -> bytes:
    """A picture file: `extra` is "", "frames" (of an animation), "exif" (turned), "mid transparency"."""
    chance = np.random.default_rng(0)
    width, height = size
    if mode in ("I;16", "I"):
        image = Image.fromarray(chance.integers(0, 65536, (height, width)).astype(np.uint16 if mode == "I;16" else np.int32))
    elif mode == "F":
        image = Image.fromarray(chance.random((height, width)).astype(np.float32))
    else:
        image = Image.fromarray(chance.integers(0, 256, (height, width, 3)).astype(np.uint8))
        image = image.convert("RGB").convert("L").convert("LA") if mode == "LA" else image.convert(mode)
    options: dict[str, object] = {}
    if extra == "frames" and suffix in ("png", "gif", "tif", "webp"):
        options = {"save_all": True, "append_images": [image.copy(), image.copy()]}
    if extra == "exif" and suffix in ("jpg", "png", "webp"):
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif}
    if extra == "transparency" and suffix == "png" and mode in ("P", "L", "RGB"):
        options = {"transparency": 0 if mode != "RGB" else (0, 0, 0)}
    stream = io.BytesIO()
    image.save(stream, FORMATS.get(suffix, suffix.upper()), **options)
    return stream.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is that large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


OTHERS = [
    b"",
    b"\0",
    b"GIF89a",
    b"\x89PNG\r\n\x1a\n",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"%PDF-1.4\n",
    b"P6\n9 9\n255\n",
    b"BM",
    b"P6\n999999999 999999999\n255\n",
    b"P5 1 1 99999999\n",
    b"II*\0\x08\0\0\0",
    b"RIFF\0\0\0\0WEBPVP8 ",
    b"\xff\xd8\xff\xe0",
    b"<svg/>",
    b"GIF89a" + b"\xff" * 50,
    b"#EXTM3U\n/etc/passwd\n",
    b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    b"\x80\x04cos\nsystem\n.",
    b"\0\0\0\x1cftypavif",
    bomb(20_000, 20_000),
    bomb(2**31 - 1, 2**31 - 1),
    bomb(1, 2**30),
    b"\x93NUMPY\x01\0",
    b"PK\x03\x04",
    b"v\x2f\x31\x01",
]


@st.composite
def damaged(draw: st.DrawFn, whole: Callable[[st.DrawFn], bytes]) -> bytes:
    """What `whole` draws, often with bytes cut, changed, doubled or put in."""
    data = bytearray(whole(draw))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 5]))):
        at = draw(st.integers(0, len(data))) if draw(st.booleans()) else draw(st.integers(0, min(len(data), 64)))
        what = draw(st.sampled_from(["cut", "byte", "byte", "word", "gap", "double", "zeros"]))
        if what == "cut":
            del data[at:]
        elif what == "gap":
            del data[at : at + draw(st.integers(1, 64))]
        elif what == "double":
            data[at:at] = data[at : at + 32]
        else:
            new = {
                "byte": draw(st.binary(min_size=1, max_size=1)),
                "word": draw(st.sampled_from([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, b"\0\0\0\1"])),
                "zeros": b"\0" * 16,
            }[what]
            data[at : at + len(new)] = new
    return bytes(data)


def pictures() -> st.SearchStrategy[tuple[str, bytes]]:
    """(suffix that is said, bytes)."""

    def whole(draw: st.DrawFn) -> bytes:
        suffix = draw(st.sampled_from(list(MODES)))
        return picture(
            suffix,
            draw(st.sampled_from(MODES[suffix])),
            draw(st.sampled_from(SIZES[:4] if suffix == "ico" else SIZES)),
            draw(st.sampled_from(["", "frames", "exif", "transparency"])),
        )

    said = st.sampled_from(["png", "jpg", "webp", "bmp", "gif", "tif", "PNG", "jpeg"])
    return st.tuples(said, damaged(whole) | damaged(whole) | damaged(whole) | st.sampled_from(OTHERS))


@cache
def video(codec: str, suffix: str, size: tuple[int, int], frames: int, form: str, sound: bool = False, pace: str = "even") -> bytes:
    """A video file of so many frames: `pace` "even" or "uneven" (of a changing rate)."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip.{suffix}"
        with av.open(str(path), "w") as container:
            rate = 25 if codec == "mpeg1video" else 8
            audio = container.add_stream("aac", rate=44100) if sound else None
            stream = container.add_stream(codec, rate=rate) if frames else None
            if stream is not None:
                stream.width, stream.height, stream.pix_fmt = *size, form
                chance, moment = np.random.default_rng(0), 0
                for number in range(frames):
                    pixels = chance.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
                    shown = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                    shown.pts, shown.time_base = moment, Fraction(1, rate)
                    moment += 1 + (5 * (number % 3) if pace == "uneven" else 0)
                    container.mux(stream.encode(shown))
                container.mux(stream.encode())
            if audio is not None:
                heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                heard.sample_rate = 44100
                container.mux(audio.encode(heard))
                container.mux(audio.encode(None))
        return path.read_bytes()


KINDS = [
    ("libx264", "mp4", (16, 16), 6, "yuv420p"),
    ("libx264", "mkv", (64, 18), 6, "yuv420p"),
    ("mpeg4", "avi", (32, 32), 6, "yuv420p"),
    ("libx264rgb", "mp4", (17, 15), 4, "rgb24"),
    ("libvpx", "webm", (16, 16), 5, "yuv420p"),
    ("libx264", "mp4", (16, 16), 1, "yuv420p"),
    ("mpeg1video", "mpg", (32, 32), 6, "yuv420p"),
]


def videos() -> st.SearchStrategy[tuple[str, bytes]]:
    """(suffix that is said, bytes)."""

    def whole(draw: st.DrawFn) -> bytes:
        codec, suffix, size, frames, form = draw(st.sampled_from(KINDS))
        sound, pace = (
            suffix == "mp4" and draw(st.booleans()),
            draw(st.sampled_from(["even", "uneven"]) if suffix in ("mp4", "mkv") else st.just("even")),
        )
        if sound and draw(st.integers(0, 5)) == 0:
            frames = 0
        return video(codec, suffix, size, frames, form, sound, pace)

    said = st.sampled_from(["mp4", "mkv", "avi", "webm", "mov", "gif", "mpg", "m4v"])
    return st.tuples(said, damaged(whole) | damaged(whole) | damaged(whole) | st.sampled_from(OTHERS))
