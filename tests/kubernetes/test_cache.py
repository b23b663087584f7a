"""What a list and its watch have told: what counts as a change, and where the watch goes on."""

from typing import Any

import pytest

from epp_client.kubernetes.follow.cache import Cache, Key, key_of

A, B = Key("default", "a"), Key("default", "b")


def item(name: str, spec: str = "", version: str = "1") -> dict[str, Any]:
    metadata = {"namespace": "default", "name": name, "resourceVersion": version}
    return {"metadata": metadata, "spec": spec, "status": version}


@pytest.fixture
def cache() -> Cache[str]:
    """Keeps the spec alone; one list has been read."""
    made: Cache[str] = Cache(lambda data: data["spec"])
    made.reset(made.keep([item("a", "x"), item("b", "y")]), "5")
    return made


def test_a_list_replaces_everything(cache: Cache[str]) -> None:
    assert cache.reset(cache.keep([item("a", "z")]), "6")
    assert (cache.objects, cache.version) == ({A: "z"}, "6")


def test_the_first_list_is_a_change_even_if_it_is_empty() -> None:
    cache: Cache[str] = Cache(lambda data: data["spec"])
    assert not cache.synced
    assert cache.reset({}, "5")
    assert cache.synced
    assert not cache.reset({}, "6")


def test_what_nobody_reads_is_no_change_and_moves_the_watch_on(cache: Cache[str]) -> None:
    assert not cache.apply("MODIFIED", item("a", "x", "7"))
    assert (cache.objects, cache.version) == ({A: "x", B: "y"}, "7")


def test_a_bookmark_moves_the_watch_on_and_is_no_object(cache: Cache[str]) -> None:
    assert not cache.apply("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
    assert (cache.objects, cache.version) == ({A: "x", B: "y"}, "9")


def test_events_change_one_object(cache: Cache[str]) -> None:
    assert cache.apply("MODIFIED", item("a", "z", "6"))
    assert cache.apply("ADDED", item("c", "w", "7"))
    assert cache.apply("DELETED", item("b", "y", "8"))
    assert not cache.apply("DELETED", item("b", "y", "9"))
    assert cache.objects == {A: "z", Key("default", "c"): "w"}


def test_an_event_without_a_version_leaves_the_watch_where_it_was(cache: Cache[str]) -> None:
    assert cache.apply("ADDED", {"metadata": {"namespace": "default", "name": "c"}, "spec": "w"})
    assert cache.version == "5"


def test_a_watch_that_has_lost_its_place_keeps_the_objects(cache: Cache[str]) -> None:
    cache.forget_version()
    assert (cache.objects, cache.version, cache.synced) == ({A: "x", B: "y"}, "", True)


def test_an_object_without_a_name_has_an_empty_key() -> None:
    assert key_of({}) == Key("", "")
