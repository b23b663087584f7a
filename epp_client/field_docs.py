"""What the fields of a settings model mean: the docstrings below them. They are the help of options and
the text of the reference.

Read from the source when somebody asks. pydantic could read them (`use_attribute_docstrings`), but it would
do so whenever the model is imported: 30 ms at each start, for nobody.
"""

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise

from pydantic import BaseModel


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The docstring of each field of `model` that has one, by the field's name. Docstrings of a subclass
    override those of its bases."""
    docs: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            docs |= _written_in(base)
    return docs


@cache
def _written_in(model: type[BaseModel]) -> dict[str, str]:
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in pairwise(definition.body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
    return found
