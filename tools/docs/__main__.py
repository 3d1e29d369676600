"""The command line of the generator."""

from __future__ import annotations

import sys

import click

from tools.docs.pages import DOCS, stale_pages


@click.command(help="Write the generated pages of docs/.")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a page is stale.")
def docs(check: bool) -> None:
    stale = stale_pages()
    for name, text in stale.items():
        if not check:
            (DOCS / name).parent.mkdir(exist_ok=True)
            (DOCS / name).write_text(text, encoding="utf-8")
        click.echo(f"docs/{name}: {'stale' if check else 'written'}")
    if stale and check:
        click.echo("run: python -m tools.docs", err=True)
        sys.exit(1)


if __name__ == "__main__":
    docs()
