"""What pages are made of."""

from __future__ import annotations

from pathlib import Path

from adapthub.web.page_files import media_type, read_files

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "runtime" / "server" / "pages", ROOT / "hub" / "server" / "pages" / "static"]


def test_a_style_stands_behind_what_all_share(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_bytes(b"p { margin: 0; }\n")
    (tmp_path / "page.js").write_bytes(b"1;\n")
    (tmp_path / "notes.txt").write_bytes(b"")
    found = read_files(tmp_path)
    assert set(found) == {"style.css", "page.js"}
    assert found["style.css"].startswith((ROOT / "web" / "house.css").read_bytes())
    assert found["style.css"].endswith(b"p { margin: 0; }\n")
    assert media_type("page.js") == "text/javascript"


def test_no_colour_is_named_elsewhere() -> None:
    for folder in FOLDERS:
        assert "light-dark(" not in (folder / "style.css").read_text(), folder
