"""How long the server has been silent, over all starts of kopf; no kopf is started here."""

import asyncio
from types import SimpleNamespace

import pytest
from yarl import URL

from luthier.metrics import Metrics
from luthier.watch import Watch, _settings


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(clock):
    return Watch(lambda *_: None, metrics=Metrics(), namespaces=["team", "other"], clock=clock)


async def answer(life, url):
    response = SimpleNamespace(status=200)
    await life._note_answer(None, SimpleNamespace(), SimpleNamespace(response=response, url=URL(url)))


def test_before_the_first_start_no_watch_has_an_age(watch):
    assert watch.ages() == {}


@pytest.mark.row(12, 19)
async def test_a_watch_that_stays_silent_grows_older_over_every_new_start(watch, clock):
    watch.new_life()
    clock.now += 160
    life = watch.new_life()
    clock.now += 150
    assert watch.ages() == dict.fromkeys(("finetunejobs", "evaluations", "modeldeployments"), 310)
    assert life.silent() == []


async def test_a_new_start_has_its_own_time_to_be_answered(watch, clock):
    watch.new_life()
    clock.now += 160
    life = watch.new_life()
    assert life.silent() == []
    clock.now += 151
    assert len(life.silent()) == 3


async def test_an_answer_makes_its_watch_young_and_the_quietest_namespace_counts(watch, clock):
    life = watch.new_life()
    clock.now += 100
    await answer(life, "http://api/apis/luthier.dev/v1alpha1/namespaces/team/evaluations?watch=true")
    assert watch.ages()["evaluations"] == 100
    await answer(life, "http://api/apis/luthier.dev/v1alpha1/namespaces/other/evaluations?watch=true")
    assert watch.ages() == {"finetunejobs": 100, "evaluations": 0, "modeldeployments": 100}


async def test_each_list_that_a_watch_follows_is_told_once_in_every_life(clock):
    told = []
    watch = Watch(lambda *_: None, metrics=Metrics(), caught_up=told.append, namespaces=["team"], clock=clock)
    url = "http://api/apis/luthier.dev/v1alpha1/namespaces/team/evaluations"
    for _ in range(2):
        life = watch.new_life()
        for query in ("?watch=true", "", "?limit=500&continue=x", "?watch=true", "?watch=true", "", "?watch=true"):
            await answer(life, url + query)
    await asyncio.sleep(0)
    assert told == ["evaluations"] * 4


def test_kopf_holds_no_more_objects_than_it_must_and_takes_each_event():
    settings = _settings()
    assert settings.watching.chunk_size <= 100
    assert 0 < settings.queueing.idle_timeout <= 0.5, "its worker with 0 looks for ever, and takes no event"
