"""Mistakes made mechanically: every operator, operand, name and argument changed, one at a time.

Works on source alone: ``mutation_targets`` chooses the functions, ``mutations`` judges the outcome.
"""

import ast
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

# In the source of a mutant, what puts zeros in place of every array of a value.
ZEROED = "zeroed"

_OPERATORS: dict[type, list[ast.operator]] = {
    ast.Add: [ast.Sub()],
    ast.Sub: [ast.Add()],
    ast.Mult: [ast.Add(), ast.Div()],
    ast.Div: [ast.Mult()],
    ast.MatMult: [ast.Mult()],
    ast.BitAnd: [ast.BitOr()],
}
_COMPARISONS: dict[type, list[ast.cmpop]] = {  # the negation first, then the neighbour
    ast.Eq: [ast.NotEq()],
    ast.NotEq: [ast.Eq()],
    ast.Is: [ast.IsNot()],
    ast.IsNot: [ast.Is()],
    ast.Gt: [ast.LtE(), ast.GtE()],
    ast.Lt: [ast.GtE(), ast.LtE()],
}
_FUNCTIONS = {"tanh": "sigmoid", "sigmoid": "tanh", "mean": "sum"}
_MODULES = {"tanh": "jnp", "sigmoid": "jax.nn", "sum": "jnp"}
# What any array has: a name before one of these may be any other array.
_OF_ARRAYS = {"T", "astype", "at", "ndim", "real", "reshape", "shape", "size"}


class Mutant(NamedTuple):
    """A function with one mistake."""

    before: str  # the line that was changed
    after: str
    source: str  # of the whole function


class _Bound(NamedTuple):
    """A name that a function binds."""

    name: str
    group: str  # what it may be mistaken for: bound together, or arguments of one type
    is_array: bool  # or a tuple of arrays
    line: int  # from which it is known


class _Site(NamedTuple):
    """A node, where it hangs, and what surrounds it."""

    parent: ast.AST
    field: str
    place: int | None
    node: ast.AST
    statement: ast.stmt
    scopes: tuple[list[_Bound], ...]  # innermost last


def mutants(
    tree: ast.stmt, within: Collection[ast.AST] = (), fields: Collection[tuple[str, ...]] = ()
) -> list[Mutant]:
    """All mistakes of a function, or of an assignment at module level.

    What only decides a dtype is left alone: in float64 a cast changes nothing.

    Args:
      tree: the definition; its annotations, decorators and docstring are taken off.
      within: nodes of it to stay within; by default all of it.
      fields: names of attributes that may be mistaken for each other, family by family.
    """
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    scopes: dict[ast.AST, list[_Bound]] = {function: _bound(function) for function in functions}
    _strip(tree)
    seen, found = {ast.unparse(tree)}, []
    inside = {below for node in within for below in ast.walk(node)}
    for site in list(_sites(tree, tree, (), scopes)):
        if within and site.node not in inside:
            continue
        for new in _replacements(site, fields):
            before = _first_line(site.statement)
            _put(site, new)
            statement = new if isinstance(new, ast.stmt) else site.statement
            mutant = Mutant(before, _first_line(statement), ast.unparse(tree))
            _put(site, site.node)
            if mutant.source not in seen:
                seen.add(mutant.source)
                found.append(mutant)
    return found


def _first_line(statement: ast.stmt) -> str:
    return ast.unparse(statement).split("\n")[0]


def _put(site: _Site, node: ast.AST) -> None:
    if site.place is None:
        setattr(site.parent, site.field, node)
    else:
        getattr(site.parent, site.field)[site.place] = node


def _strip(tree: ast.stmt) -> None:
    """Take off decorators, annotations and docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list, node.returns = [], None
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.arg):
            node.annotation = None


def _bound(scope: ast.FunctionDef | ast.Lambda) -> list[_Bound]:
    """The names that a function binds, in order."""
    entries = []
    for argument in [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs]:
        kind = "Array" if argument.annotation is None else ast.unparse(argument.annotation)
        if argument.arg != "self":
            entries.append(_Bound(argument.arg, kind, kind == "Array" or kind.endswith("Carry"), 0))
    for statement in _statements(scope.body) if isinstance(scope, ast.FunctionDef) else []:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.For):
            targets = [statement.target]
        for target in targets:
            names = [
                n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            ]
            group = str(statement.lineno)
            entries += [_Bound(name, group, True, statement.lineno) for name in names if name != "_"]
    first: dict[str, _Bound] = {}
    for entry in entries:
        first.setdefault(entry.name, entry)
    return list(first.values())


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a function, those inside loops and conditions too, but not of inner functions."""
    for statement in body:
        yield statement
        if not isinstance(statement, ast.FunctionDef):
            for part in ("body", "orelse"):
                yield from _statements(getattr(statement, part, []))


def _sites(
    node: ast.AST, statement: ast.stmt, scopes: tuple[list[_Bound], ...], bound: dict[ast.AST, list[_Bound]]
) -> Iterator[_Site]:
    """Everything below a node that may be changed."""
    if node in bound:
        scopes = (*scopes, bound[node])
    for field, value in ast.iter_fields(node):
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST) or _left_alone(node, field, child):
                continue
            inner = child if isinstance(child, ast.stmt) else statement
            yield _Site(node, field, index, child, inner, scopes)
            yield from _sites(child, inner, scopes, bound)


def _left_alone(parent: ast.AST, field: str, node: ast.AST) -> bool:
    """Arguments' names, functions called by name, what only decides a dtype, checks of input."""
    if isinstance(node, ast.arguments) or isinstance(getattr(node, "ctx", None), ast.Del):
        return True
    if isinstance(node, ast.Attribute) and node.attr == "dtype":
        return True
    if isinstance(parent, ast.Call) and field == "func":
        return isinstance(node, ast.Name)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return ast.unparse(node.value.func).startswith("check")
    return False


def _replacements(site: _Site, fields: Collection[tuple[str, ...]]) -> Iterator[ast.AST]:
    """Every mistake that can stand in place of a node."""
    node = site.node
    if isinstance(node, ast.Name):
        yield from _other_names(site, node)
    elif isinstance(node, ast.Attribute):
        yield from _other_attributes(site, node, fields)
    elif isinstance(node, ast.If | ast.IfExp) and not isinstance(node.test, ast.Compare):
        yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    else:
        yield from _BY_TYPE.get(type(node), lambda node: iter(()))(node)


def _other_names(site: _Site, node: ast.Name) -> Iterator[ast.AST]:
    """Names bound together with this one, and the arrays bound just before and just after it."""
    if not isinstance(node.ctx, ast.Load):
        return
    table = next((t for t in reversed(site.scopes) if any(b.name == node.id for b in t)), [])
    known = [b for b in table if b.line < site.statement.lineno or b.name == node.id]
    own = next((b for b in known if b.name == node.id), None)
    if own is None:
        return
    others = [b for b in known if b.group == own.group]
    base_of = isinstance(site.parent, ast.Attribute) and site.parent.attr not in _OF_ARRAYS
    if own.is_array and not base_of:
        arrays = [b for b in known if b.is_array]
        place = arrays.index(own)
        others += arrays[max(place - 1, 0) : place + 2]
    for name in dict.fromkeys(b.name for b in others):
        if name != node.id:
            yield ast.Name(name, ast.Load())


def _other_attributes(
    site: _Site, node: ast.Attribute, fields: Collection[tuple[str, ...]]
) -> Iterator[ast.AST]:
    base = node.value
    if node.attr == "T":
        yield base
    if isinstance(base, ast.Name) and base.id in ("self", "jax", "jnp", "np"):
        return
    called = isinstance(site.parent, ast.Call) and site.field == "func"
    others = [name for family in fields if node.attr in family for name in family]
    for name in dict.fromkeys([] if called else others):
        if name != node.attr:
            yield ast.Attribute(base, name, node.ctx)


def _with(node: ast.AST, **changes: object) -> ast.AST:
    """A copy of a node with some fields changed."""
    return ast.copy_location(type(node)(**{**dict(ast.iter_fields(node)), **changes}), node)


def _operators(node: ast.BinOp) -> Iterator[ast.AST]:
    """Another operator, either operand alone, the operands exchanged."""
    for operator in _OPERATORS.get(type(node.op), []):
        yield _with(node, op=operator)
    yield node.left
    yield node.right
    if isinstance(node.op, ast.Sub | ast.Div | ast.MatMult):
        yield _with(node, left=node.right, right=node.left)


def _signs(node: ast.UnaryOp) -> Iterator[ast.AST]:
    yield node.operand


def _comparisons(node: ast.Compare) -> Iterator[ast.AST]:
    for operator in _COMPARISONS.get(type(node.ops[0]), []):
        yield _with(node, ops=[operator])


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)


def _sequences(node: ast.List | ast.Tuple) -> Iterator[ast.AST]:
    for elements in _exchanged(node.elts):
        yield _with(node, elts=elements)


def _exchanged(nodes: list[Any]) -> Iterator[list[Any]]:
    """Neighbours exchanged, a pair at a time."""
    for place in range(len(nodes) - 1):
        pair = nodes[place : place + 2]
        fixed = any(isinstance(n, ast.Constant | ast.Slice | ast.Starred | ast.UnaryOp) for n in pair)
        if not fixed and ast.unparse(pair[0]) != ast.unparse(pair[1]):
            yield [*nodes[:place], *reversed(pair), *nodes[place + 2 :]]


def _slices(node: ast.Slice) -> Iterator[ast.AST]:
    """The part before, for the part from a place on."""
    if (node.lower is None) != (node.upper is None):
        yield ast.Slice(node.upper, node.lower)


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    """Arguments exchanged, a function left out, another function, a field zero."""
    callee = ast.unparse(node.func)
    for arguments in _exchanged(node.args):
        yield _with(node, args=arguments)
    root, _, name = callee.rpartition(".")
    applied = root in ("", "jnp", "jax.nn") and len(node.args) == 1
    if applied and not isinstance(node.args[0], ast.Starred | ast.List):
        yield node.args[0]
    if root in ("jnp", "jax.nn") and name in _FUNCTIONS:
        other = _FUNCTIONS[name]
        yield _with(node, func=ast.parse(f"{_MODULES[other]}.{other}", mode="eval").body)
    if name[:1].isupper() or name == "_replace":  # a named tuple
        for place, keyword in enumerate(node.keywords):
            for value in _zeros(keyword.value):
                zero = ast.keyword(keyword.arg, value)
                yield _with(node, keywords=[*node.keywords[:place], zero, *node.keywords[place + 1 :]])
        values: list[ast.expr] = [keyword.value for keyword in node.keywords]
        for exchanged in _exchanged(values):
            pairs = zip(node.keywords, exchanged, strict=True)
            yield _with(node, keywords=[ast.keyword(k.arg, value) for k, value in pairs])


def _zeros(value: ast.expr) -> Iterator[ast.expr]:
    if any(isinstance(node, ast.Name) for node in ast.walk(value)):
        yield ast.Call(ast.Name(ZEROED, ast.Load()), [value], [])


def _assignments(node: ast.Assign) -> Iterator[ast.AST]:
    for value in _zeros(node.value):
        yield _with(node, value=value)


def _returns(node: ast.Return) -> Iterator[ast.AST]:
    """Zeros in place of what is returned; of one of several, if it is a tuple."""
    if not isinstance(node.value, ast.Tuple):
        for value in _zeros(node.value) if node.value else ():
            yield _with(node, value=value)
        return
    elements = node.value.elts
    for place, element in enumerate(elements):
        for value in _zeros(element):
            zero = [*elements[:place], value, *elements[place + 1 :]]
            yield _with(node, value=_with(node.value, elts=zero))


_BY_TYPE: dict[type, Callable[..., Iterator[ast.AST]]] = {
    ast.Assign: _assignments,
    ast.BinOp: _operators,
    ast.Call: _calls,
    ast.Compare: _comparisons,
    ast.Constant: _constants,
    ast.List: _sequences,
    ast.Return: _returns,
    ast.Slice: _slices,
    ast.Tuple: _sequences,
    ast.UnaryOp: _signs,
}
