"""Media files that somebody made to read other files, or to take all memory."""

import socket
import struct
import zlib
from pathlib import Path

import made_images
import made_videos as clips
import pytest

from data_tools.media.child import ClipError
from data_tools.media.packets import open_video
from data_tools.media.pictures import source_of
from data_tools.media.probe import probe
from data_tools.media.stills import picture_of
from data_tools.sample import Cut
from evaluation.report.clips import preview_of
from evaluation.runs import RunError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A media root with a link to a video outside of it, where there is a picture, too."""
    clips.write_video(tmp_path / "secret.mp4")
    made_images.write_image(tmp_path / "secret.png")
    root = tmp_path / "videos"
    root.mkdir()
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    return root


def playlist(address: object) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{address}\n#EXT-X-ENDLIST\n"


def test_a_list_of_other_files_is_no_video(root):
    outside = root.parent / "secret.mp4"
    (root / "a.m3u8").write_text(playlist(outside))
    (root / "b.m3u8").write_text(playlist("link.mp4"))
    (root / "c.mp4").write_text("ffconcat version 1.0\nfile link.mp4\n")
    (root / "d%03d.png").write_bytes((root.parent / "secret.png").read_bytes())
    for number in (1, 2, 3):
        (root / f"d{number:03d}.png").symlink_to(root.parent / "secret.png")
    for name in ("a.m3u8", "b.m3u8", "c.mp4", "d%03d.png"):
        with pytest.raises(ClipError, match="no_video: .*names other files"):
            probe(root / name)
    for name in ("a.m3u8", "c.mp4"):  # pages of runs from elsewhere
        with pytest.raises(RunError, match="names other files"):
            preview_of(root / name)
    (root / "e.mp4").write_text(f"ffconcat version 1.0\nfile {outside}\n")
    (root / "f.mp4").write_text(playlist(outside))
    for name in ("e.mp4", "f.mp4"):
        with pytest.raises(ClipError, match="undecodable"):
            probe(root / name)


def test_nothing_is_fetched(root):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        (root / "a.m3u8").write_text(playlist(address))
        (root / "b.mp4").write_text(f"ffconcat version 1.0\nfile {address}\n")
        for name in ("a.m3u8", "b.mp4"):
            with pytest.raises(ClipError):
                probe(root / name)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_name_is_no_address(root, monkeypatch):
    """`concat:` and its like are FFmpeg's, where a path is relative."""
    monkeypatch.chdir(root)
    secret = root.parent / "secret.mp4"
    here = Path(f"concat:{secret}")
    here.parent.mkdir(parents=True)
    clips.write_video(root / "a.mp4", frames=5).rename(here)
    with open_video(here) as file:
        assert file.streams.video[0].frames == 5  # the file's own, not the 8 of the other


def test_names_that_no_file_can_have_are_missing_ones(root):
    (root / "circle.mp4").symlink_to("circle.mp4")
    for name in ("circle.mp4", "x" * 5000 + ".mp4", "/".join(["abc"] * 3000), "a\0.mp4", "a\ud800.mp4"):
        with pytest.raises(ClipError, match="missing"):
            probe(source_of(root, Cut(name)))


def png(path: Path, side: int) -> Path:
    """A black picture of a bit per pixel."""
    packed = zlib.compressobj()
    rows = b"".join(packed.compress(bytes(1 + -(-side // 8))) for _ in range(side)) + packed.flush()
    chunks = (b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")
    whole = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(whole))
    return path


def test_a_small_file_of_huge_frames_is_not_decoded(tmp_path, monkeypatch):
    bomb = png(tmp_path / "a.png", 17_000)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(ClipError, match="too_large"):
        picture_of(bomb)
    clip = clips.write_video(tmp_path / "a.mp4", width=256, height=256)
    monkeypatch.setattr("data_tools.media.packets.MOST_PIXELS", 255 * 256)
    from data_tools.media.packets import index_packets

    with pytest.raises(ClipError, match="too_large: has 256 x 256 pixels"):
        index_packets(clip)


def test_a_picture_starts_no_program(tmp_path, monkeypatch):
    """Pillow takes a file for what it holds, whatever its name, and has Ghostscript read PostScript."""
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(ClipError, match="no_image"):
        picture_of(tmp_path / "a.png")
    with pytest.raises(RunError):
        preview_of(tmp_path / "a.png")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"])
def test_pictures_of_the_usual_kinds_are_read(tmp_path, kind):
    from PIL import Image

    Image.new("RGB", (64, 32), "red").save(tmp_path / "picture", kind)
    assert picture_of(tmp_path / "picture")[0].size == (64, 32)
