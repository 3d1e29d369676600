"""Takes the picture of a report in the documentation: ``python -m tools.docs.picture ENGINE/report.html``."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import click

from tools.docs.pages import DOCS

PICTURE = DOCS / "images" / "report.png"
WIDTH_PX, HEIGHT_PX = 1040, 1180
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")


@click.command(help="Write docs/images/report.png: the upper part of the page REPORT, in headless Chromium.")
@click.argument("report", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def picture(report: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise click.ClickException(f"expected one of {', '.join(BROWSERS)}, got none: install Chromium")
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder) / "report.png"
        size = f"--window-size={WIDTH_PX},{HEIGHT_PX}"
        command = [browser, *FLAGS, f"--user-data-dir={folder}/profile", size, f"--screenshot={taken}"]
        subprocess.run([*command, report.resolve().as_uri()], check=True, capture_output=True, timeout=120)
        shutil.copyfile(taken, PICTURE)
    click.echo(f"wrote {PICTURE}")


if __name__ == "__main__":
    picture()
