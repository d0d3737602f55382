"""Recipes, mirrors, and which images are in use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from provision import server_facts
from virtual_lab import images, mirror, recipes


def test_a_recipe_that_changes_is_another_image() -> None:
    recipe = recipes.server()
    others = (
        replace(recipe, packages=(*recipe.packages, "jq2")),
        replace(recipe, files={**recipe.files, "etc/hostname": "x"}),
        replace(recipe, masked=()),
    )
    assert len({recipe.digest, *(other.digest for other in others)}) == 4
    assert recipe.folder == replace(recipe).folder


def test_both_recipes_can_be_made_and_name_no_package_twice() -> None:
    for recipe in (recipes.node(), recipes.server()):
        assert len(recipe.packages) == len(set(recipe.packages))


@pytest.mark.parametrize(
    ("sources", "main", "security"),
    [
        ("", None, None),
        ("deb https://m.example/debian/ bookworm main\n", "https://m.example/debian", None),
        ("deb [signed-by=/x.gpg] http://m.example/debian x main\ndeb http://m.example/debian-security x main",
         "http://m.example/debian", "http://m.example/debian-security"),
        ("URIs: http://m.example/debian\nSuites: x\n", "http://m.example/debian", None),
        ("deb https://packages.example/cloud cloud main\n# deb http://no.example/debian x main", None, None),
        ("deb http://m.example/debian-security x main", None, None),
    ],
)  # fmt: skip
def test_the_machines_own_mirror_is_used_if_it_names_one(
    sources: str, main: str | None, security: str | None
) -> None:
    lines = [f"deb {main} trixie main", f"deb {main} trixie-updates main"] if main else []
    lines += [f"deb {security} trixie-security main"] if security else []
    assert images.mirror_lines(sources, "trixie") == lines


def test_all_that_the_server_step_needs_is_on_the_mirror_or_part_of_debian() -> None:
    needed = set(server_facts.NEEDED) - {"openssl"}  # which ca-certificates needs
    assert needed <= {*mirror.PACKAGES, *recipes.server().packages}
    assert not set(mirror.PACKAGES) & set(recipes.server().packages)


def test_the_index_of_wheels_is_by_the_names_of_projects(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    for name in ("SQLAlchemy-2.0-py3-none-any.whl", "typing_extensions-4-py3-none-any.whl", "a.b_c-1-x.whl"):
        (tmp_path / "wheels" / name).touch()
    mirror.write_index(tmp_path)
    pages = {page.parent.name: page.read_text() for page in tmp_path.glob("simple/*/index.html")}
    assert pages.keys() == {"sqlalchemy", "typing-extensions", "a-b-c"}
    assert 'href="../../wheels/SQLAlchemy-2.0-py3-none-any.whl"' in pages["sqlalchemy"]


def test_an_image_that_is_there_is_not_built(tmp_path: Path) -> None:
    recipe = recipes.Recipe("x", ("dpkg",))
    (tmp_path / recipe.folder).mkdir()
    assert images.ready(recipe, tmp_path, pytest.fail) == tmp_path / recipe.folder


def test_what_a_fresh_node_has_not_lies_aside(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/ceph-mon").write_text("a program")
    recipe = recipes.Recipe("x", (), held=("usr/bin/ceph-mon",), masked=())
    images.finish(recipe, tmp_path)
    assert not (tmp_path / "usr/bin/ceph-mon").exists()
    assert (tmp_path / "usr/lib/rackproof/held/usr/bin/ceph-mon").read_text() == "a program"
    assert (tmp_path / "usr/lib/rackproof/held/list").read_text() == "/usr/bin/ceph-mon\n"
    assert "usr/bin/ceph" not in recipes.node().held


def test_racks_are_remembered_with_their_layers(tmp_path: Path) -> None:
    rack, home = tmp_path / "racks/a", tmp_path / "images"
    rack.mkdir(parents=True)
    layers = {"node": (home / "pve-1", home / "node-2"), "server": (home / "server-3",)}
    images.record(rack, layers)
    assert images.recorded(rack, home) == layers
    assert images.in_use(tmp_path / "racks") == {"pve-1", "node-2", "server-3"}
    assert images.recorded(tmp_path, home) == {}


def test_what_a_killed_build_left_is_swept_but_not_one_that_goes_on(tmp_path: Path) -> None:
    for name in ("node", "server"):
        (tmp_path / f"{name}.lock").touch()
        (tmp_path / f".{name}-1.partial").mkdir()
    with images.building(tmp_path / "server.lock", lambda: None):
        images.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".server-1.partial",
        "node.lock",
        "server.lock",
    ]
