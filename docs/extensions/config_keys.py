"""The directive `config-keys MODULE SCHEMA`: every key of a config, from the source of its dataclasses."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from training.runtime.config_help import ConfigKey, keys


class ConfigKeys(SphinxDirective):
    """A definition list of the keys at the top level, then one for each section."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """The keys as nodes; the page is read again on every build, since its sources may have changed."""
        module, schema = self.arguments
        sections: dict[str, list[ConfigKey]] = {"": []}
        about: dict[str, str] = {}
        for key in keys(module, schema):
            if key.is_section:
                sections[key.name], about[key.name] = [], key.doc
            else:
                sections[_section_of(key.name)].append(key)
        out: list[nodes.Node] = []
        for name, listed in sections.items():
            if name:
                out.append(_title(name, about[name]))
            if listed:
                out.append(_listed(listed))
        self.env.note_reread()
        return out


def _section_of(name: str) -> str:
    return name.rpartition(".")[0].removesuffix(".0").removesuffix(".NAME")


def _title(name: str, about: str) -> nodes.Node:
    paragraph = nodes.paragraph("", "", nodes.strong(text=name))
    paragraph += [nodes.Text(": "), *_marked(about)] if about else []
    return paragraph


def _marked(text: str) -> list[nodes.Node]:
    """Text with `code` marks as nodes."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return [nodes.Text(text)]
    return [nodes.literal(text=part) if at % 2 else nodes.Text(part) for at, part in enumerate(parts)]


def _listed(listed: list[ConfigKey]) -> nodes.Node:
    out = nodes.definition_list(classes=["config-keys"])
    for key in listed:
        default = "" if key.default is None else f" = {key.default}"
        term = nodes.term("", "", nodes.literal(text=key.name), nodes.Text(f"  {key.type}{default}"))
        item = nodes.definition_list_item("", term)
        item += nodes.definition("", nodes.paragraph("", "", *_marked(key.doc or "")))
        out += item
    return out


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
