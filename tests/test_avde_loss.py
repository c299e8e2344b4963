"AVDE's loss: what leaves it unchanged, what it must see, where its gradients go, and what it refuses."
import math
import pytest
import torch
import torch.nn.functional as F
from brainrecon.alignment.avde_loss import avde_loss, both_questions, likeness, same_picture
from brainrecon.alignment.contrast import info_nce
from brainrecon.core.checks import ParameterError, ReconError, ShapeError, UnknownError, seeded

scale = math.log(1/.07); modes = ['paper', 'released']
def rows(b=7, d=5, seed=0):
    with seeded(seed): return torch.randn(b, d), torch.randn(b, d)
def total(*a, **k): return sum(avde_loss(*a, **k).values())

@pytest.mark.parametrize('mode', modes)
@pytest.mark.parametrize('share', [0., .3, .8, 1.])
def test_terms_are_weighted_as_each_form_has_it(mode, share):
    e, z = rows(); paper = mode == 'paper'; got = avde_loss(e, z, scale, mode, share=share)
    clip = 2*info_nce(e, z, math.exp(scale)) if paper else info_nce(e, z, scale, normalise=False)
    want = dict(clip=(share if paper else 10*(1 - share))*clip, mse=(1 - share if paper else 10*share)*F.mse_loss(e, z))
    assert got.keys() == want.keys() and all(torch.allclose(got[k], want[k], rtol=1e-5) for k in want)

@pytest.mark.parametrize('mode', modes)
def test_order_of_the_batch_does_not_matter(mode):
    e, z = rows(); p = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(total(e, z, scale, mode), total(e[p], z[p], scale, mode), rtol=1e-5) and not torch.allclose(total(e, z, scale, mode), total(e, z[p], scale, mode), rtol=1e-3)

def test_length_is_seen_by_the_distance_alone():
    e, z = rows(); a, b = (avde_loss(k*e, z, scale) for k in (1., 3.)); assert torch.allclose(a['clip'], b['clip']) and not torch.allclose(a['mse'], b['mse'])
    a, b = (avde_loss(k*e, z, scale, 'released') for k in (1., 3.)); assert not torch.allclose(a['clip'], b['clip'])

@pytest.mark.parametrize('mode', modes)
def test_gradients_are_those_of_small_steps(mode):
    e, z = (x.double() for x in rows(4, 3)); s = torch.tensor(1.3, dtype=torch.float64, requires_grad=True); e.requires_grad_()
    f = lambda e, s: both_questions(likeness(e, z, mode)*(s.exp() if mode == 'paper' else s), same_picture([0, 1, 1, 2])) + F.mse_loss(e, z)
    assert torch.autograd.gradcheck(f, (e, s))

@pytest.mark.parametrize('mode', modes)
def test_a_picture_that_stands_twice_changes_nothing(mode):
    "With equal targets, one right answer and two right answers are the same loss with the same gradient; with other targets they are not."
    e, z = rows(); ids = [0, 1, 1, 2, 3, 3, 3]
    def grads(z, positives): x = e.clone().requires_grad_(); total(x, z, scale, mode, positives=positives).backward(); return x.grad
    twice = z[ids]; assert torch.allclose(grads(twice, None), grads(twice, same_picture(ids)), atol=1e-5) and not torch.allclose(grads(z, None), grads(z, same_picture(ids)), atol=1e-2)
    assert torch.equal(grads(z, same_picture(range(7))), grads(z, torch.eye(7, dtype=torch.bool)))

def test_several_right_answers_by_hand():
    e, z = rows(3, 4); p = same_picture(['a', 'b', 'a']); l = likeness(e, z); rows_, cols = l.log_softmax(1), l.log_softmax(0)
    want = -((rows_*p/p.sum(1, keepdim=True)).sum(1).mean() + (cols*p/p.sum(0)).sum(0).mean())
    assert torch.allclose(both_questions(l, p, halved=False), want) and torch.allclose(both_questions(l, p), want/2)

def test_same_picture():
    assert same_picture(torch.tensor([5, 2, 5])).tolist() == same_picture(['x', 'y', 'x']).tolist() == same_picture([1, 0, 1]).tolist() == [[True, False, True], [False, True, False], [True, False, True]]

@pytest.mark.parametrize('mode', modes)
def test_half_precision_is_computed_in_32_bits(mode):
    e, z = ((60*x).half() for x in rows(6, 64)); a, b = total(e, z, scale, mode), total(e.float(), z.float(), scale, mode); assert a.dtype == torch.float32 and torch.equal(a, b)
    before = e.clone(); total(e, z, torch.tensor([scale]), mode); assert torch.equal(e, before)

def test_a_temperature_has_a_limit_only_if_asked():
    e, z = rows(); free, bound = (avde_loss(e, z, 8., largest=n)['clip'] for n in (None, 100.)); assert bound < free and torch.allclose(bound, avde_loss(e, z, math.log(100.))['clip'])

@pytest.mark.parametrize('what, kind', [(dict(mode='Paper'), UnknownError), (dict(share=1.2), ParameterError), (dict(share=-.1), ParameterError), (dict(logit_scale=torch.ones(2)), ParameterError),
    (dict(z=torch.ones(6, 5)), ShapeError), (dict(z=torch.ones(7, 4)), ShapeError), (dict(e=torch.ones(7)), ShapeError), (dict(text=torch.ones(7, 4)), ShapeError),
    (dict(positives=torch.eye(6, dtype=torch.bool)), ShapeError), (dict(positives=torch.eye(7)), ParameterError), (dict(positives=torch.zeros(7, 7, dtype=torch.bool)), ParameterError), (dict(positives=torch.ones(7, 6, dtype=torch.bool)), ReconError)])
def test_bad_input(what, kind):
    e, z = rows()
    with pytest.raises(kind): avde_loss(**dict(e=e, z=z, logit_scale=scale) | what)
