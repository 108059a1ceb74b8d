"""The values of the formula sheet, where it is at hand."""

import importlib.util
import math

import pytest
import torch

from embedscope.losses.expression import build
from embedscope.metrics.class_kl import class_kl
from embedscope.metrics.gini import gini
from embedscope.metrics.silhouette import silhouette
from embedscope.metrics.soft_silhouette import soft_silhouette
from tests.conftest import SHARED

PATH = SHARED / "reference_values.py"
pytestmark = pytest.mark.skipif(not PATH.exists(), reason=f"{PATH} is not there")


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference_values", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def batch(reference):
    return torch.from_numpy(reference.Z), torch.from_numpy(reference.y), torch.from_numpy(reference.X)


def test_silhouette(reference, batch):
    assert float(silhouette(*batch[:2])) == pytest.approx(reference.out["hard silhouette (=sklearn)"], abs=1e-10)


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("softmin", "key"), [("lse", "L_sil paper form tau_s=tau_m="), ("lme", "L_sil LME-min tau=")])
def test_soft_silhouette_metric_and_loss(reference, batch, tau, softmin, key):
    expected = reference.out[f"{key}{tau}"]
    value = soft_silhouette(*batch[:2], tau_s=tau, tau_m=tau, softmin=softmin)
    assert -float(value) == pytest.approx(expected, abs=1e-10)
    objective = build(f"silhouette(tau_s={tau}, tau_m={tau}, softmin='{softmin}')", num_classes=3, dim=2)
    assert float(objective(*batch)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("activation", ["abs", "relu"])
def test_gini_and_class_kl(reference, batch, activation):
    expected = reference.out[f"Gini {activation} | KL(Y||S) code | KL(S||Y) paper"]
    found = (
        gini(*batch[:2], activation=activation),
        class_kl(*batch[:2], activation=activation),
        class_kl(*batch[:2], activation=activation, direction="feature_to_target"),
    )
    assert tuple(map(float, found)) == pytest.approx(expected, abs=1e-6)  # the sheet rounds these to six places
    losses = (
        build(f"gini(activation='{activation}')", num_classes=3, dim=2),
        build(f"class_kl(activation='{activation}')", num_classes=3, dim=2),
        build(f"class_kl(activation='{activation}', direction='feature_to_target')", num_classes=3, dim=2),
    )
    assert [float(loss(*batch)) for loss in losses] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("hinge", "key"), [(True, "Magnet sigma^2 global, hinge"), (False, "Magnet no hinge")])
def test_magnet(reference, batch, hinge, key):
    assert float(build(f"magnet(hinge={hinge})", 3, 2)(*batch)) == pytest.approx(reference.out[key], abs=1e-10)


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0])
def test_latent_boost(reference, batch, beta):
    expected = reference.out[f"LatentBoost no PCA alpha=1 beta={beta} hinge|none"]
    options = f"explained_variance=1, alpha0=0, beta0={beta}, beta_schedule='constant'"
    found = [float(build(f"latent_boost({options}, hinge={hinge})", 3, 2)(*batch)) for hinge in (True, False)]
    assert found == pytest.approx(expected, abs=1e-6)  # the sheet rounds these to six places


# Rows of the sheet for losses that need nothing beside the batch.
@pytest.mark.parametrize(
    ("objective", "key"),
    [
        ("supcon", "SupCon tau=.1"),
        ("supcon(temperature=0.07)", "SupCon tau=.07"),
        ("pml.NTXentLoss(temperature=0.1)", "decoupled softmax / pml NTXent tau=.1"),
        ("contrastive", "pml Contrastive(0,1)"),
        ("triplet", "pml Triplet(.05)"),
        ("multi_similarity", "MultiSimilarity(2,50,.5), no miner"),
        ("npair", "pml NPairs (cosine logits)"),
    ],
)
def test_losses_of_pairs(reference, batch, objective, key):
    pytest.importorskip("pytorch_metric_learning")
    assert build(objective, 3, 2)(*batch).item() == pytest.approx(reference.out[key], abs=1e-10)


@pytest.mark.parametrize(
    ("objective", "key"),
    [
        ("proxy_nca", "pml ProxyNCA scale=1"),
        ("proxy_nca(scale=9)", "ProxyNCA++ (scale 9)"),
        ("proxy_anchor", "ProxyAnchor(.1,32)"),
        ("normalized_softmax", "NormalizedSoftmax T=.05"),
        ("pml.ProxyAnchorLoss", "ProxyAnchor(.1,32)"),
    ],
)
def test_losses_of_proxies(reference, batch, objective, key):
    pytest.importorskip("pytorch_metric_learning")
    built = build(objective, 3, 2)
    (parameter,) = built.parameters()
    proxies = torch.from_numpy(reference.P)
    with torch.no_grad():
        parameter.copy_(proxies if parameter.shape == proxies.shape else proxies.T)
    assert built(*batch).item() == pytest.approx(reference.out[key], abs=1e-10)


def test_arcface_of_the_library_counts_its_margin_in_degrees(reference, batch):
    pytest.importorskip("pytorch_metric_learning")
    built = build(f"pml.ArcFaceLoss(margin={180 * 0.5 / math.pi}) + pml.CosFaceLoss", 3, 2)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.from_numpy(reference.P).T)
    built(*batch)
    found = [value.item() for value in built.terms.values()]
    assert found == pytest.approx([reference.out["ArcFace s=64 m=.5"], reference.out["CosFace s=64 m=.35"]], abs=1e-5)


def test_cross_entropy(reference, batch):
    assert float(build("ce", 3, 2)(*batch)) == pytest.approx(reference.out["CE"], abs=1e-10)


@pytest.mark.parametrize(
    ("term", "key"),
    [
        ("comp_sum(tau=1.7)", "GCE q=.7"),
        ("comp_sum(tau=2)", "MAE(tau=2) 1-p"),
        ("comp_sum(tau=0)", "sum-exp(tau=0)"),
        ("comp_sum(tau=1)", "CE"),
        ("ldr(lam=1, margin=1)", "LDR-KL lam=1,c=1"),
        ("z_loss(a=1, b=0)", "Z-loss a=1,b=0"),
        ("mann_whitney(temperature=1)", "MW loss on cosine, tau=1"),
        ("decoupled_softmax(temperature=0.1)", "decoupled softmax / pml NTXent tau=.1"),
        ("uniformity(t=2)", "uniformity t=2 (pairs i<j)"),
        ("elastic_face(kind='arc', sd=0)", "ArcFace s=64 m=.5"),
        ("elastic_face(kind='cos', sd=0)", "CosFace s=64 m=.35"),
        ("sface", "SFace s=64,k=80,a=.8,b=1.23"),
    ],
)
def test_losses(reference, batch, term, key):
    objective = build(term, 3, 2)
    for weight in objective.parameters():
        weight.data = torch.from_numpy(reference.P)
    assert float(objective(*batch).detach()) == pytest.approx(reference.out[key], abs=1e-10)


def test_any_loss(reference, batch):
    # The sheet leaves out what the authors' code adds to the denominator, 1e-5 beside 4.
    value = build("any_loss(score='f1', amplification=73)", 3, 2)(*batch)
    assert float(value) == pytest.approx(reference.out["AnyLoss macro-F1 L=73"], abs=5e-6)
