"""Make the picture of the README: the click widget in JupyterLab, on a real photo and real weights (`make picture`)."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "browser"))

import lab  # noqa: E402

TARGET = ROOT / "docs" / "click_widget.jpg"
SCALE = 1000 / 600  # the photo is 600 pixels wide
CELL = """
from nbhelpers import ClickSession, load, sample
from nbhelpers.widgets.click import ClickWidget

session = ClickSession(sample("coffee"), load("segmenter", models="lite"))
session.rename_object(session.active, "saucer")
session.set_box((75, 70, 485, 385))
session.click(300, 120, label=0)
session.click(320, 220, label=0)
session.add_object("cup")
session.set_box((165, 15, 412, 318))
session.click(300, 150)
session.click(225, 280)
session.add_object("spoon")
widget = ClickWidget(session, width=1000)
widget
"""


def main() -> None:
    """Open JupyterLab in a Chromium, click, and save what the widget shows."""
    with (
        tempfile.TemporaryDirectory() as folder,
        lab.lab_server(Path(folder)) as server,
        lab.chromium(Path(folder) / "profile", width=1500, height=1350) as page,
    ):
        notebook = lab.Notebook(page, server, Path(folder) / "work", "picture.ipynb", CELL)
        page.wait_for_selector("text=Click on the object")
        notebook.click(365 * SCALE, 285 * SCALE)  # the spoon
        notebook.eventually("bool(session.mask('spoon').any())", True)
        page.wait_for_timeout(1500)
        TARGET.parent.mkdir(exist_ok=True)
        page.locator(".nbhelpers-click input[type=text]:visible").last.fill("outputs/coffee")  # not this machine's path
        page.mouse.move(0, 0)
        page.locator(".nbhelpers-click").screenshot(path=str(TARGET), type="jpeg", quality=88)
    print(TARGET.relative_to(ROOT))


if __name__ == "__main__":
    main()
