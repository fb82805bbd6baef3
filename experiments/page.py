"""All findings on one page that opens without a network: outputs/findings.html, pictures inside.

python experiments/page.py
"""

import base64
import html
import re
from pathlib import Path

from markdown_it import MarkdownIt

HERE = Path(__file__).parent
PAGE = HERE.parent / "outputs" / "findings.html"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 60rem; }
body { color: #1f2328; background: #fff; }
section { margin-top: 4rem; border-top: 1px solid #d0d7de; }
h1, h2 { font-size: 1.5rem; }
h3 { font-size: 1.2rem; }
img { max-width: 100%; }
pre, .table { overflow-x: auto; }
pre { background: #f6f8fa; padding: .75rem; border-radius: 6px; }
code { font-size: .875em; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { border: 1px solid #d0d7de; padding: .25rem .5rem; text-align: left; vertical-align: top; }
a { color: #0757ba; }
"""


def study(folder: Path, markdown: MarkdownIt) -> tuple[str, str]:
    """The question of a study and its documents as HTML; links to other files are plain text."""
    files = [folder / "README.md", *sorted(set(folder.glob("*.md")) - {folder / "README.md"})]
    texts = [file.read_text(encoding="utf-8") for file in files]
    question = markdown.renderInline(texts[0].partition("\n")[0].removeprefix("# "))
    body = "".join(markdown.render(text) for text in texts)
    body = re.sub(r"(</?h)([1-5])>", lambda found: f"{found[1]}{int(found[2]) + 1}>", body)

    def picture(found: re.Match[str]) -> str:
        data = base64.b64encode((folder / found[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    def link(found: re.Match[str]) -> str:
        target = (folder / html.unescape(found[1])).resolve()
        if target.name == "README.md" and target.parent.parent == HERE:
            return f'<a href="#{target.parent.name}">{found[2]}</a>'
        return found[2]

    body = re.sub(r'src="([^":]+\.png)"', picture, body)
    body = re.sub(r'<a href="(?!https?:)([^"]*)">(.*?)</a>', link, body, flags=re.DOTALL)
    body = body.replace("<table>", '<div class="table"><table>')
    return question, body.replace("</table>", "</table></div>")


def main() -> None:
    """Write the page and say where it is."""
    markdown = MarkdownIt("commonmark").enable("table")
    folders = sorted(readme.parent for readme in HERE.glob("*/README.md"))
    studies = {folder.name: study(folder, markdown) for folder in folders}
    contents = "".join(
        f'<li><a href="#{name}">{question}</a></li>\n' for name, (question, _) in studies.items()
    )
    sections = "".join(
        f'<section id="{name}">\n{body}</section>\n' for name, (_, body) in studies.items()
    )
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>What tinygpt measured</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>What tinygpt measured</h1>\n<ul>\n{contents}</ul>\n{sections}"
        "</main>\n</body>\n</html>\n",
        encoding="utf-8",
    )
    print(f"{len(studies)} studies are on {PAGE}")


if __name__ == "__main__":
    main()
