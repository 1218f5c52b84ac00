"""What attacks need of the images and of their arguments, and the names of their metrics; see also test_epochloss."""

from __future__ import annotations

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive

from clpack.strategies import AdversarialTrainingPlugin, Attack, robust_accuracy_metrics


@pytest.fixture
def make_strategy(make_model):
    def make(*plugins, metrics=()):
        model = make_model()
        return Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            train_mb_size=64,
            train_epochs=2,
            plugins=list(plugins),
            evaluator=EvaluationPlugin(*metrics, loggers=[]),
        )

    return make


def normalize(images):
    return (images - 0.1307) / 0.3081


class TestPixels:
    def test_training_on_normalized_images_is_refused(self, make_stream, make_strategy):
        clean, normalized = make_stream(2), make_stream(2, train_transform=normalize)
        strategy = make_strategy(AdversarialTrainingPlugin(steps=1))
        strategy.train(clean.train_stream[0])
        message = r"attack 'pgd' needs pixels in \[0, 1\], got values from -0.42421 to 2.82.*; leave the normalization"
        with pytest.raises(ValueError, match=message):
            strategy.train(normalized.train_stream[1])

    def test_what_an_attack_before_it_did_does_not_count(self, make_stream, make_strategy):
        noise, pgd = AdversarialTrainingPlugin("gaussian_noise"), AdversarialTrainingPlugin(steps=1)
        make_strategy(noise, pgd).train(make_stream(5).train_stream[0])  # noise is not clipped

    def test_evaluation_on_normalized_images_is_refused(self, make_stream, make_strategy):
        stream = make_stream(2, eval_transform=normalize)
        strategy = make_strategy(metrics=robust_accuracy_metrics(("rotate",)))
        strategy.train(stream.train_stream[0])
        strategy.eval(stream.test_stream[1:])  # not trained yet, so not attacked
        with pytest.raises(ValueError, match=r"attack 'rotate' needs pixels in \[0, 1\], got values from -0.42421 to"):
            strategy.eval(stream.test_stream)

    def test_one_look_at_each_experience(self, make_stream, make_strategy, monkeypatch):
        looks = []
        monkeypatch.setattr(Attack, "check_pixels", lambda self, images: looks.append(self.name))
        plugin = AdversarialTrainingPlugin("rotate")
        strategy = make_strategy(plugin, metrics=robust_accuracy_metrics(("gaussian_blur",)))
        stream = make_stream(2)
        strategy.train(stream.train_stream)
        strategy.eval(stream.test_stream)
        assert looks == ["rotate"] * 2 + ["gaussian_blur"] * 2

    def test_the_range(self):
        images = torch.rand(2, 1, 4, 4)
        images[0, 0, 0] = torch.tensor([0.0, 1.0, -1e-6, 1 + 1e-6])  # rounding
        Attack().check_pixels(images)
        for value in (-0.01, 1.01, float("nan")):
            images[0, 0, 0, 0] = value
            with pytest.raises(ValueError, match=f"needs pixels .* {value}"):
                Attack().check_pixels(images)


class TestNames:
    def test_metrics_of_one_attack_with_other_options_go_side_by_side(self, make_stream, make_strategy):
        settings = ({"eps": 0.03, "steps": 1}, {"step_size": 0.1, "eps": 0.5, "steps": 1})
        weak, strong = (metric for options in settings for metric in robust_accuracy_metrics(**options))
        strategy, stream = make_strategy(metrics=(weak, strong)), make_stream(2)
        strategy.train(stream.train_stream[0])
        values = strategy.eval(stream.test_stream[:1])
        assert values["Average_Accuracy_pgd_steps=1/eval_phase/test_stream"] == weak.matrix[0, 0]
        name = "Average_Accuracy_pgd_eps=0.5_step_size=0.1_steps=1/eval_phase/test_stream"
        assert values[name] == strong.matrix[0, 0] < weak.matrix[0, 0]
        assert str(weak) != str(strong)

    def test_defaults_go_without_saying(self):
        for attack in ("pgd", "gaussian_noise", "saturate"):
            assert str(Attack(attack)) == attack
        assert str(Attack("rotate", {"severity": 3, "center": "authors"})) == "rotate"
        assert str(Attack("rotate", {"center": "image", "severity": 1})) == "rotate_severity=1_center=image"


class TestArguments:
    def test_unknown_and_wrong_options(self):
        for name, options, message in (
            ("rotate", {"severty": 3}, "unknown rotate option 'severty': did you mean 'severity'"),
            ("rotate", {"signs": torch.ones(1)}, "unknown rotate option 'signs'"),
            ("pgd", {"steps": 1.5}, "steps must be an integer, got 1.5"),
        ):
            with pytest.raises(TypeError, match=message):
                AdversarialTrainingPlugin(name, **options)
        with pytest.raises(ValueError, match="severity must be an integer from 1 to 5, got 3.0"):
            AdversarialTrainingPlugin("rotate", severity=3.0)

    def test_metrics_take_a_sequence_of_names(self):
        with pytest.raises(TypeError, match=r"sequence of names, got the string 'pgd'; write \('pgd',\)"):
            robust_accuracy_metrics("pgd")
        with pytest.raises(ValueError, match="unknown attack 'pdg': did you mean 'pgd'"):
            robust_accuracy_metrics(("pdg",), eps=0.1)
