"""Archives that are hostile, damaged or cut off: nothing outside the data directory, no half
dataset, and a retry works.
"""

from __future__ import annotations

import gzip
import io
import signal
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eyevsai.data.archives import MAX_FILES, UnsafeArchiveError, extract
from tests.conftest import Eyevsai
from tests.e2e.dataset_server import Publisher, images_of, png, publishing, tar_of, zip_of
from tests.forked_commands import fork_command

GOOD = images_of({"set/bean": 4, "set/leek": 4})
PATH = "/vegetables/archive.zip"
pytestmark = pytest.mark.requirement(20)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing({PATH: zip_of(GOOD)}) as served:
        yield served


def tar_with(
    name: str, kind: bytes, link: str = "", content: bytes = b"", **fields: object
) -> bytes:
    """The good images, and one more member of a tar."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for good, image in GOOD.items():
            info = tarfile.TarInfo(good)
            info.size = len(image)
            archive.addfile(info, io.BytesIO(image))
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(content)
        for field, value in fields.items():
            setattr(info, field, value)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zip_with(
    name: str, mode: int, content: bytes = b"x", method: int = zipfile.ZIP_DEFLATED, flags: int = 0
) -> bytes:
    """The good images, and one more member of a zip."""
    stream = io.BytesIO(zip_of(GOOD))
    with zipfile.ZipFile(stream, "a") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = (mode | 0o644) << 16, method
        archive.writestr(info, content)
        info.flag_bits |= flags
    return stream.getvalue()


def many_files() -> bytes:
    return zip_of({f"{number}": b"" for number in range(MAX_FILES + 1)})


def endless_header() -> bytes:
    """A tar whose extended header says that it has a gigabyte."""
    info = tarfile.TarInfo("set/bean/x.png")
    info.type, info.size = tarfile.XHDTYPE, 2**30
    return gzip.compress(info.tobuf() + bytes(2**25))


def longer_than_it_says() -> bytes:
    """A zip whose lists say of a member that it is smaller than it is."""
    content = bytes(10**6)
    return zip_with("set/bean/x.png", stat.S_IFREG, content).replace(
        struct.pack("<L", 10**6), struct.pack("<L", 9)
    )


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "slip in a zip": (lambda: zip_with("set/../../../evil.png", stat.S_IFREG), "leads out"),
    "slip in a tar": (
        lambda: tar_with("../../evil.png", tarfile.REGTYPE, content=b"x"),
        "leads out",
    ),
    "slip as on Windows": (lambda: zip_with("set\\..\\..\\evil.png", stat.S_IFREG), "leads out"),
    "slip of a folder": (lambda: tar_with("../../evil", tarfile.DIRTYPE), "leads out"),
    "absolute in a zip": (lambda: zip_with("/tmp/eyevsai-evil.png", stat.S_IFREG), "absolute"),
    "absolute in a tar": (
        lambda: tar_with("/tmp/eyevsai-evil.png", tarfile.REGTYPE, content=b"x"),
        "absolute",
    ),
    "absolute as on Windows": (lambda: zip_with("C:/evil.png", stat.S_IFREG), "absolute"),
    "symbolic link in a zip": (
        lambda: zip_with("set/bean/x.png", stat.S_IFLNK, b"/etc/passwd"),
        "link",
    ),
    "symbolic link in a tar": (
        lambda: tar_with("set/bean/x.png", tarfile.SYMTYPE, "/etc/passwd"),
        "link",
    ),
    "link to a folder": (lambda: tar_with("set/leek", tarfile.SYMTYPE, "../../.."), "link"),
    "hard link": (lambda: tar_with("set/bean/x.png", tarfile.LNKTYPE, "../../../evil.png"), "link"),
    "device": (
        lambda: tar_with("set/bean/x.png", tarfile.CHRTYPE, devmajor=1, devminor=5),
        "device",
    ),
    "block device": (lambda: tar_with("set/bean/x.png", tarfile.BLKTYPE), "device"),
    "pipe": (lambda: tar_with("set/bean/x.png", tarfile.FIFOTYPE), "pipe"),
    "device in a zip": (lambda: zip_with("set/bean/x.png", stat.S_IFCHR), "device"),
    "sparse file": (lambda: tar_with("set/bean/x.png", tarfile.GNUTYPE_SPARSE), "sparse|damaged"),
    "one large file": (
        lambda: zip_with("set/bean/x.png", stat.S_IFREG, bytes(101 * 10**6)),
        "is larger than|has 101 MB",
    ),
    "many large files": (
        lambda: zip_of(GOOD | {f"set/bean/b{n}.png": bytes(10**7) for n in range(9)}),
        "is larger than",
    ),
    "a large file of another kind": (
        lambda: tar_with("x.bin", tarfile.REGTYPE, content=bytes(10**8)),
        "is larger than",
    ),
    "too many files": (many_files, "more than 100,000 files and folders"),
    "an endless header": (endless_header, "damaged"),
    "a file that is longer than it says": (longer_than_it_says, "damaged"),
    "the same name twice": (
        lambda: tar_with("./set//bean/000.png", tarfile.REGTYPE, content=b"x"),
        "twice",
    ),
    "a file that is a folder": (
        lambda: tar_with("set/bean/000.png/x.png", tarfile.REGTYPE, content=b"x"),
        "same path",
    ),
    "a name that writes to the terminal": (
        lambda: zip_with("set/\x1b[2J/x.png", stat.S_IFREG),
        "not a valid file name",
    ),
    "encrypted": (lambda: zip_with("set/bean/x.png", stat.S_IFREG, flags=1), "encrypted"),
    "another compression": (
        lambda: zip_with("set/bean/x.png", stat.S_IFREG, method=zipfile.ZIP_LZMA),
        "compressed",
    ),
    "cut off, a zip": (lambda: zip_of(GOOD)[:-100], "damaged"),
    "cut off, a tar": (lambda: tar_of(GOOD)[:-100], "damaged"),
    "a bit that fell over": (
        lambda: zip_of(GOOD)[:200] + b"\xff\x00\xff" + zip_of(GOOD)[203:],
        "damaged",
    ),
    "something after its end": (
        lambda: gzip.compress(gzip.decompress(tar_of(GOOD)) + b"x" * 600),
        "damaged",
    ),
    "a page that asks to log in": (lambda: b"<!doctype html><title>Log in</title>", "neither"),
    "nothing": (lambda: b"", "neither"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_leaves_nothing_and_a_retry_works(
    kind: str, eyevsai: Eyevsai, workplace: Path, publisher: Publisher
) -> None:
    make, reason = HOSTILE[kind]
    publisher.files[PATH] = make()
    before = sorted(workplace.rglob("*"))
    said = eyevsai("data", "download", "vegetables", "--mirror", publisher.url, code=1).stderr
    assert any(word in said for word in reason.split("|")), said
    assert "It was deleted. Run the same command to download it again" in said
    assert "\x1b" not in said
    new = {str(path.relative_to(workplace)) for path in workplace.rglob("*")} - {
        str(path.relative_to(workplace)) for path in before
    }
    assert new <= {
        "data",
        "data/.downloads",
        "data/.downloads/vegetables",
        "data/.downloads/vegetables.lock",
    }
    assert not list(Path("/tmp").glob("eyevsai-evil*"))
    publisher.files[PATH] = zip_of(GOOD)
    assert (
        "8 images in 2 classes"
        in eyevsai("data", "download", "vegetables", "--mirror", publisher.url).stdout
    )


@pytest.mark.parametrize(
    "kind", ["one large file", "a large file of another kind", "an endless header"]
)
def test_a_bomb_takes_no_memory(kind: str, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(HOSTILE[kind][0]())
    tracemalloc.start()
    with pytest.raises(UnsafeArchiveError):
        extract(tmp_path / "archive", tmp_path / "out", {".png"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 10**6


def test_an_archive_of_ones_own_is_refused_and_kept(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "mine.zip").write_bytes(zip_with("../../evil.png", stat.S_IFREG))
    done = eyevsai("data", "download", "vegetables", "--archive", "mine.zip", code=2)
    assert "Cannot unpack mine.zip: '../../evil.png' leads outside the target" in done.stderr
    assert (workplace / "mine.zip").exists()
    assert not (workplace / "data" / "vegetables").exists()


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_no_damage_to_an_archive_is_a_traceback_or_another_image(
    make: Callable[[dict[str, bytes]], bytes], tmp_path: Path
) -> None:
    whole = make(GOOD)
    for sandbox in range(0, len(whole), max(1, len(whole) // 150)):
        damaged = bytearray(whole)
        damaged[sandbox] ^= 0xFF
        (tmp_path / "archive").write_bytes(damaged)
        folder = tmp_path / str(sandbox)
        try:
            extract(tmp_path / "archive", folder, {".png"})
        except UnsafeArchiveError:
            continue
        for path in folder.rglob("*.png"):
            assert path.read_bytes() in GOOD.values()


def test_a_wrong_checksum_is_refused_and_asked_for_again(
    eyevsai: Eyevsai, workplace: Path, publisher: Publisher
) -> None:
    publisher.files["/pets/images.tar.gz"] = tar_of({"images/Pug_1.jpg": png(0, 0)})
    for _ in range(2):  # the published MD5 is that of the real archive
        said = eyevsai("data", "download", "pets", "--mirror", publisher.url, code=1).stderr
        assert "differs from the published file" in said
        assert "5c4f3ee8e5d25df40f4fd59a7f44e54c" in said
    assert [asked for asked in publisher.asked if asked[0].startswith("/pets")] == [
        ("/pets/images.tar.gz", None)
    ] * 2
    assert not (workplace / "data" / "pets").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_download_is_gone_on_with(
    number: signal.Signals, eyevsai: Eyevsai, workplace: Path, publisher: Publisher
) -> None:
    publisher.files[PATH] = whole = zip_of(images_of({"set/bean": 20, "set/leek": 20}))
    publisher.hang_after = 100_000
    child = fork_command(workplace, "data", "download", "vegetables", "--mirror", publisher.url)
    part = workplace / "data" / ".downloads" / "vegetables" / "archive.zip.unchecked.part"
    child.wait_until(lambda: part.exists() and part.stat().st_size >= 64_000)
    code = child.end(number)
    assert (
        code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[number]
    )
    said = child.out.read_text() + child.err.read_text()
    if number != signal.SIGKILL:
        assert "to resume the download" in said
    assert "Traceback" not in said
    assert {path.name for path in (workplace / "data").iterdir()} - {".downloads"} == set()
    there = part.stat().st_size
    publisher.hang_after = None
    assert (
        "40 images in 2 classes"
        in eyevsai("data", "download", "vegetables", "--mirror", publisher.url).stdout
    )
    assert publisher.asked[-1] == (PATH, f"bytes={there}-")
    assert 0 < there < len(whole)


def test_an_interrupted_unpacking_leaves_no_half_dataset_and_needs_no_second_download(
    eyevsai: Eyevsai, workplace: Path, publisher: Publisher
) -> None:
    image = png(0, 0)
    publisher.files[PATH] = zip_of(
        {f"{label}/{number}.png": image for label in "ab" for number in range(1500)}
    )
    child = fork_command(workplace, "data", "download", "vegetables", "--mirror", publisher.url)
    child.wait_until(lambda: list(workplace.glob("data/.vegetables-*/*/*/*")))
    assert child.end(signal.SIGINT) == 130
    assert {path.name for path in (workplace / "data").iterdir()} == {".downloads"}
    size = len(publisher.files[PATH])
    assert (
        "3000 images in 2 classes"
        in eyevsai("data", "download", "vegetables", "--mirror", publisher.url).stdout
    )
    assert publisher.asked == [(PATH, None), (PATH, f"bytes={size}-")]


def test_a_part_of_what_is_no_longer_published_is_not_gone_on_with(
    eyevsai: Eyevsai, workplace: Path, publisher: Publisher
) -> None:
    part = workplace / "data" / ".downloads" / "vegetables" / "archive.zip.unchecked.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * (len(publisher.files[PATH]) + 1))
    assert (
        "8 images in 2 classes"
        in eyevsai("data", "download", "vegetables", "--mirror", publisher.url).stdout
    )
    assert [asked for _, asked in publisher.asked] == [
        f"bytes={len(publisher.files[PATH]) + 1}-",
        None,
    ]


def test_two_at_once_do_not_meet(eyevsai: Eyevsai, workplace: Path, publisher: Publisher) -> None:
    publisher.hang_after = 1
    child = fork_command(workplace, "data", "download", "vegetables", "--mirror", publisher.url)
    child.wait_until(lambda: publisher.asked)
    assert (
        "Another process is downloading vegetables"
        in eyevsai("data", "download", "vegetables", code=2).stderr
    )
    assert child.end(signal.SIGINT) == 130


def test_what_a_killed_process_left_is_swept_away(
    eyevsai: Eyevsai, workplace: Path, publisher: Publisher
) -> None:
    left = workplace / "data" / ".vegetables-half"
    left.mkdir(parents=True)
    (left / "000.png").write_bytes(b"half")
    eyevsai("data", "download", "vegetables", "--mirror", publisher.url)
    assert not left.exists()
    assert {path.name for path in (workplace / "data").iterdir()} == {".downloads", "vegetables"}
