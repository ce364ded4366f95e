"A training goes on from its checkpoint as if it had not been cut off, and only with the settings and images that it began with"
import shutil, subprocess, sys
from pathlib import Path
import pytest, torch
from fastai.vision.all import (Callback, CancelFitException, EarlyStoppingCallback, GradientAccumulation, OptimWrapper, RMSProp,
    ReduceLROnPlateau, SGD, SaveModelCallback, partial, set_seed)
from psm_fastai.all import *
from common import Spy, quiet, same, state, tiny, tiny_learner
from data import by_label, digit_files
from resume_run import train_both

@pytest.mark.guarantee('resume')
def test_a_cut_off_training_and_lr_find_leave_the_checkpoint_alone(tmp_path):
    for i,cut in enumerate((KeyboardInterrupt,CancelFitException)):
        learn,saved = quiet(cbs=[PSMCallback(bank_size=64)]),CheckpointCallback(tmp_path/f'{i}.pth')
        learn.add_cb(saved)
        def stop(cb):
            if cb.training and cb.epoch==1 and cb.iter==1: raise cut
        try: learn.fit(3, cbs=Spy(after_batch=stop))
        except KeyboardInterrupt: pass
        was = saved.path.read_bytes()
        learn.lr_find(show_plot=False)
        assert saved.path.read_bytes()==was and saved.resume(learn)==1
        learn.fit(3, start_epoch=1)
        assert torch.load(saved.path, weights_only=True)['epoch']==3

@pytest.mark.guarantee('resume')
def test_trackers_of_one_class_each_keep_their_own(tmp_path):
    def run(**kwargs):
        set_seed(0)
        learn,saved = quiet(cbs=[PSMCallback(bank_size=64)]),CheckpointCallback(tmp_path/'c.pth')
        learn.path = tmp_path
        two = [SaveModelCallback(fname='a'), SaveModelCallback(monitor='train_loss', fname='b')]
        start = saved.resume(learn) if kwargs.pop('resume', False) else 0
        learn.fit(2, cbs=[saved, *two, *kwargs.pop('cbs', [])], start_epoch=start)
        return [float(cb.best) for cb in two]
    def stop(cb): raise CancelFitException
    first = run(cbs=[Spy(order=80, after_epoch=stop)])
    assert first[0]!=first[1]
    assert [t['best'] for t in torch.load(tmp_path/'c.pth', weights_only=True)['trackers'].values()]==first
    got = run(resume=True)
    assert all(g<=f for g,f in zip(got, first)) and got[0]!=got[1]

@pytest.mark.guarantee('resume')
def test_a_refused_resume_leaves_trackers_at_work(tmp_path):
    learn,saved = quiet(cbs=[PSMCallback(bank_size=64)]),CheckpointCallback(tmp_path/'c.pth')
    learn.path = tmp_path
    learn.fit(1, cbs=saved)
    best = SaveModelCallback()
    learn.add_cbs([saved, best])
    start = saved.resume(learn)
    with pytest.raises(ValueError, match='training of 1 epochs, and this one has 4'): learn.fit(4, start_epoch=start)
    saved.saved = None
    learn.fit(1)
    assert best.run and (tmp_path/'models/model.pth').exists()

@pytest.mark.guarantee('resume')
@pytest.mark.parametrize('workers,schedule', [(0,'fit_one_cycle'), (2,'fit')])
def test_resume_in_a_new_process_is_bit_for_bit(tmp_path, workers, schedule):
    train_both(tmp_path, workers, schedule)
    program = Path(__file__).parent/'resume_run.py'
    subprocess.run([sys.executable, program, tmp_path, str(workers), schedule], check=True, capture_output=True, text=True)
    want,got = (torch.load(tmp_path/f'{n}.pth', weights_only=False) for n in ('whole','resumed'))
    assert want.keys()==got.keys()
    for n in want:
        a,b = want[n],got[n]
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a==b, n

@pytest.mark.guarantee('resume')
def test_trackers_and_schedules_that_break_on_start_epoch(tmp_path):
    def make(): set_seed(0); return quiet(cbs=[PSMCallback(bank_size=64)])
    def stop(cb):
        if cb.epoch==1: raise CancelFitException
    learn = make()
    learn.path = tmp_path
    every = SaveModelCallback(fname='e', every_epoch=True)
    learn.fit(3, cbs=[CheckpointCallback(tmp_path/'c.pth'), Spy(order=80, after_epoch=stop), every])
    first = (tmp_path/'models/e_0.pth').stat().st_mtime_ns
    again,saved = make(),CheckpointCallback(tmp_path/'c.pth')
    again.path = tmp_path
    again.fit(3, cbs=[saved, SaveModelCallback(fname='e', every_epoch=True), EarlyStoppingCallback(patience=9),
                      ReduceLROnPlateau(patience=9)], start_epoch=saved.resume(again))
    assert (tmp_path/'models/e_0.pth').stat().st_mtime_ns==first and (tmp_path/'models/e_2.pth').exists()
    again,saved = make(),CheckpointCallback(tmp_path/'c.pth')
    saved.resume(again)
    with pytest.raises(ValueError, match='to `fit` or `fit_one_cycle`. Other schedules, such as `fit_flat_cos`'):
        again.fit_flat_cos(3, 1e-3, cbs=saved, start_epoch=0)

@pytest.mark.guarantee('resume')
def test_an_optimizer_state_that_does_not_fit_is_refused(tmp_path):
    learn = quiet(cbs=[PSMCallback(bank_size=64)], opt_func=partial(SGD, mom=.9))
    learn.fit(1, cbs=CheckpointCallback(tmp_path/'c.pth'))
    other = quiet(cbs=[PSMCallback(bank_size=64)], opt_func=partial(SGD, mom=.9),
                  splitter=lambda m: [list(m[:2].parameters()), list(m[2:].parameters())])
    before = state(other)
    with pytest.raises(ValueError, match=r'another optimizer than SGD\(mom=0\.9\), or with other parameter groups'):
        CheckpointCallback(tmp_path/'c.pth').resume(other)
    assert same(before, state(other))

@pytest.mark.guarantee('resume')
def test_other_settings_are_refused(tmp_path):
    quiet(cbs=[PSMCallback(bank_size=64)]).fit(1, cbs=CheckpointCallback(tmp_path/'c.pth'))
    other = quiet(cbs=[PSMCallback.moco(bank_size=64, temp=.5)])
    before = state(other)
    with pytest.raises(ValueError, match=r'other settings: .*temp was 0.07 and is 0.5'): CheckpointCallback(tmp_path/'c.pth').resume(other)
    assert same(before, state(other))
    assert CheckpointCallback(tmp_path/'c.pth').resume(quiet(cbs=[PSMCallback(bank_size=64)]))==1

    for change,says in ((dict(opt_func=SGD), "optimizer was 'Adam' and is 'SGD'"),
                        (dict(opt_func=RMSProp), "optimizer was 'Adam' and is 'RMSProp'"),
                        (dict(opt_func=partial(SGD, mom=.9)), r"optimizer was 'Adam' and is 'SGD\(mom=0.9\)'"),
                        (dict(dls=digits_dls(bs=40, limit=200)), 'batch_size was 32 and is 40'),
                        (dict(dls=digits_dls(bs=32, limit=240)), 'there were 200 training images, and there are 240')):
        with pytest.raises(ValueError, match=says):
            CheckpointCallback(tmp_path/'c.pth').resume(quiet(cbs=[PSMCallback(bank_size=64)], **change))

@pytest.mark.guarantee('resume')
def test_optimizers_of_torch_are_resumed(tmp_path):
    def run(stop=None, start=False):
        set_seed(0)
        learn = quiet(cbs=[PSMCallback(bank_size=64)], opt_func=partial(OptimWrapper, opt=torch.optim.AdamW))
        saved = CheckpointCallback(tmp_path/'c.pth')
        def cut(cb):
            if cb.epoch==stop: raise KeyboardInterrupt
        try: learn.fit_one_cycle(3, 1e-2, cbs=[saved, Spy(before_batch=cut)], **(dict(start_epoch=saved.resume(learn)) if start else {}))
        except KeyboardInterrupt: pass
        return state(learn)
    whole = run()
    (tmp_path/'c.pth').unlink()
    assert not same(whole, run(stop=1)) and same(whole, run(start=True))
    with pytest.raises(ValueError, match="optimizer was 'OptimWrapper/AdamW' and is 'Adam'"):
        CheckpointCallback(tmp_path/'c.pth').resume(quiet(cbs=[PSMCallback(bank_size=64)]))

@pytest.mark.guarantee('resume')
def test_the_file_of_another_training_is_not_overwritten(tmp_path, capsys):
    f,learn = tmp_path/'c.pth',tiny_learner()
    first = CheckpointCallback(f)
    assert first.resume(learn)==0 and 'there is no checkpoint' in capsys.readouterr().out
    learn.fit(1, cbs=first)
    was = f.read_bytes()
    with pytest.raises(FileExistsError, match='is of another training'): tiny_learner().fit(1, cbs=CheckpointCallback(f))
    assert f.read_bytes()==was
    learn.fit(1, cbs=first)             # its own file, which it may replace
    assert f.read_bytes()!=was
    with pytest.raises(IsADirectoryError, match='is a folder'): tiny_learner().fit(1, cbs=CheckpointCallback(tmp_path))
    with pytest.raises(OSError, match="can't be written"): tiny_learner().fit(1, cbs=CheckpointCallback(f/'c.pth'))

@pytest.mark.guarantee('resume')
def test_a_folder_that_is_not_there_is_made_before_the_first_step(tmp_path):
    def stop(cb): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        quiet(cbs=[PSMCallback(bank_size=64)]).fit(9, cbs=[CheckpointCallback(tmp_path/'new/er/c.pth', every=9), Spy(before_batch=stop)])
    assert (tmp_path/'new/er').is_dir()

@pytest.mark.guarantee('resume')
@pytest.mark.guarantee('accumulation')
def test_gradients_that_wait_at_the_end_of_an_epoch_are_resumed(tmp_path):
    "Six batches an epoch, five of them a step"
    def run(**kwargs):
        set_seed(0)
        learn,saved = quiet(cbs=[PSMCallback(bank_size=128), GradientAccumulation(160)]),CheckpointCallback(tmp_path/'c.pth')
        if kwargs.pop('resume', False): kwargs['start_epoch'] = saved.resume(learn)
        try: learn.fit_one_cycle(4, 1e-2, cbs=[saved, *kwargs.pop('cbs', [])], **kwargs)
        except KeyboardInterrupt: pass
        return state(learn)
    def stop(cb):
        if cb.epoch==1: raise KeyboardInterrupt
    want = run()
    (tmp_path/'c.pth').unlink()
    assert not same(run(cbs=[Spy(order=80, after_epoch=stop)]), want)
    assert same(run(resume=True), want)

@pytest.mark.guarantee('resume')
def test_a_learner_that_was_cut_off_resumes_itself(tmp_path):
    "The gradients of the batch in which it was cut off are gone"
    def make():
        set_seed(0)
        return quiet(cbs=[PSMCallback(bank_size=128)])
    def stop(cb):
        if cb.epoch==1 and cb.iter==2: raise KeyboardInterrupt
    want = make()
    want.fit(3, 1e-2)
    learn,saved = make(),CheckpointCallback(tmp_path/'c.pth')
    with pytest.raises(KeyboardInterrupt): learn.fit(3, 1e-2, cbs=[saved, Spy(after_backward=stop)])
    learn.fit(3, 1e-2, cbs=saved, start_epoch=saved.resume(learn))
    assert same(state(learn), state(want))

@pytest.mark.guarantee('resume')
def test_save_model_keeps_the_bank_of_the_best_epoch(tmp_path):
    "lightly: the bank is lost on resume, since its buffer isn't saved"
    set_seed(0)
    learn = quiet(cbs=[PSMCallback(bank_size=128)])
    learn.path,kept = tmp_path,{}
    learn.fit(3, 1e-3, cbs=[SaveModelCallback(), Spy(order=59, after_epoch=lambda cb: kept.update({cb.recorder.values[-1][1]: state(cb)}))])
    assert same(kept[min(kept)], state(learn))

def test_a_training_goes_on_after_its_images_were_moved(tmp_path):
    "Bit for bit, and other images in the same place are refused"
    def write(name, n=96): digit_files(tmp_path/name, n, by_label)
    def make(name):
        set_seed(0)
        return quiet(image_dls(tmp_path/name, size=24, bs=16), cbs=[PSMCallback(bank_size=64, n_pos=3, n_neg=20),
            NeighbourHistory(n_probes=10, n_pos=3, n_neg=5)])
    def train(name, cut=None):
        learn,save = make(name),CheckpointCallback(tmp_path/'c.pth')
        start = save.resume(learn)
        def stop(cb):
            if cut and cb.training and cb.epoch==cut: raise CancelFitException
        learn.fit(3, 1e-3, start_epoch=start, cbs=[save, Spy(before_batch=stop)])
        return state(learn)
    write('a'); write('b')
    want = train('a')
    (tmp_path/'c.pth').unlink()
    train('a', cut=1)
    shutil.rmtree(tmp_path/'a')
    assert same(train('b'), want)
    one = next((tmp_path/'b').rglob('*.png'))
    one.rename(one.with_name('other.png'))
    with pytest.raises(ValueError, match=r'1 of 96 files is gone and 1 is new \(.*other.png\)'):
        CheckpointCallback(tmp_path/'c.pth').resume(make('b'))
    (tmp_path/'b').rename(tmp_path/'gone')
    write('b', 95)
    with pytest.raises(ValueError, match='1 of 96 files is gone'): CheckpointCallback(tmp_path/'c.pth').resume(make('b'))

class Remembers(Callback):
    def __init__(self, value): self.value = value
    def state_dict(self): return dict(fine=1, value=self.value)
    def load_state_dict(self, s): self.value = s['value']

def test_a_state_that_changes_its_type_leaves_the_last_checkpoint(tmp_path):
    cb = Remembers(1.)
    def change(spy):
        if spy.epoch==1: cb.value = Path('x')
    saved = CheckpointCallback(tmp_path/'c.pth')
    with pytest.raises(ValueError, match='remembers.value is a pathlib'): tiny_learner().fit(3, cbs=[saved, cb, Spy(after_batch=change)])
    assert saved.read('cpu')['epoch']==1 and [*tmp_path.iterdir()]==[saved.path]

def test_more_epochs_and_another_number_of_threads(tmp_path, capsys, monkeypatch):
    saved = CheckpointCallback(tmp_path/'c.pth')
    tiny_learner().fit(1, cbs=saved)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 77)
    learn,again = tiny_learner(),CheckpointCallback(saved.path)
    with pytest.raises(ValueError, match='can have more, not 0'): again.resume(learn, epochs=0)
    start = again.resume(learn, epochs=3)
    assert 'was written with 1 thread, and torch now uses 77' in capsys.readouterr().out
    learn.fit_one_cycle(3, 1e-3, cbs=again, start_epoch=start)
    s = again.read('cpu')
    assert (s['epoch'],s['n_epoch'],s['threads'])==(3,3,77)

def test_a_checkpoint_gives_its_encoder_or_says_what_it_is(tmp_path):
    learn = tiny_learner()
    learn.fit(1, cbs=CheckpointCallback(tmp_path/'c.pth'))
    assert same(encoder_from(tmp_path/'c.pth', tiny()).state_dict(), learn.model.encoder.state_dict())
    for arch,n_in in (('small_resnet',1), ('resnet18',3)):
        with pytest.raises(ValueError, match='c.pth is a checkpoint. .* Give the folder of a finished run or its encoder.safetensors'):
            encoder_from(tmp_path/'c.pth', arch, n_in)
