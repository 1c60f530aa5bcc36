"""Pages of the site that are made from elsewhere: the README, and one page for each rule.

A hook of mkdocs (see mkdocs.yml). Links from docs/ to files outside are turned into plain text,
since the site does not have those files; all others are checked.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mkdocs.structure.files import File, Files

from clipguard.record.wording import REFUSALS
from clipguard.report.rules import RULE_OF_KEY, RULES

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files at the top of the repository that are pages of the site, too."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
KINDS = {
    "1": "the file: it is refused, and nothing in it was run",
    "2": "a backdoor, or what the search for one rests on",
    "3": "a repair",
    "4": "the exported file",
    "5": "whether the record is about the file",
    "6": "what was looked at: it was too little for a pass",
    "9": "the run itself",
}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    made = {name: _top(name) for name in PAGES}
    pages = {PAGES[name]: text for name, text in made.items()}
    pages["rules/index.md"] = _rules()
    pages |= {f"rules/{rule}.md": _rule(rule) for rule in RULES}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Point links of pages in docs/ to the site."""
    if page.file.generated_by:
        return markdown
    return LINK.sub(lambda link: _link(link, f"docs/{page.file.src_uri}"), markdown)


def _top(name: str) -> str:
    with open(name, encoding="utf-8") as file:
        return LINK.sub(lambda link: _link(link, name), file.read())


def _link(link: re.Match[str], source: str) -> str:
    """The same link on the site, or only its text where the site has no such page."""
    image, text, path, anchor = link[1], link[2], link[3], link[4] or ""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if target.startswith("docs/"):
        page = target.removeprefix("docs/")
    elif target in PAGES:
        page = PAGES[target]
    else:
        return text
    return f"{image}[{text}]({page}{anchor})"


def _rules() -> str:
    rows = [f"| [{rule}]({rule}.md) | {name} | {text} |" for rule, (name, text) in RULES.items()]
    head = "# Rules\n\nWhat a finding in a SARIF file or a report is called.\n\n"
    return head + "\n".join(["| rule | name | meaning |", "|---|---|---|", *rows]) + "\n"


def _rule(rule: str) -> str:
    """One rule: what it means, what leads to it, what to do."""
    name, text = RULES[rule]
    parts = [f"# {rule} {name}", f"{text}.", f"This is about {KINDS[rule[2]]}."]
    keys = [key for key, found in RULE_OF_KEY.items() if found == rule]
    if keys:
        listed = "\n".join(f"- `{key}`" for key in keys)
        parts.append(f"Lines of a policy that lead to it ([all lines](../policy.md)):\n\n{listed}")
    told = REFUSALS.get(rule, "")
    if told:
        parts.append(
            f"**What to do:** {told}. [What loads, and what is refused](../checkpoints.md)."
        )
    elif not keys or rule[2] != "1":
        parts.append(
            "**What to do:** a report begins with what to do now. "
            "[How a decision is made](../policy.md#how-a-decision-is-made)."
        )
    return "\n\n".join(parts) + "\n"
