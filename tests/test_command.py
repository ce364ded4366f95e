"What ends the command is told in one line, with an exit code; and what is finished can go on"
import json, os, re
import numpy as np, pandas as pd, pytest, torch
from pathlib import Path
from PIL import Image
from psm_fastai import pretrain
from psm_fastai.all import *
from common import command, same
from data import digit_files, save_all

small = 'digits','--limit',60,'--eval','none','--device','cpu'
def run(out, **kwargs): return pretrain.psm_pretrain('digits', limit=60, eval='none', device='cpu', out=out, **kwargs)

def at_epoch(monkeypatch, epoch, do):
    "Calls `do` in the middle of that epoch"
    def batch(self):
        if self.training and self.epoch==epoch and self.iter==1: do()
    monkeypatch.setattr(pretrain.RunLog, 'after_batch', batch, raising=False)

def raises(e):
    def f(): raise e
    return f

def test_an_interrupt_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    out = tmp_path/'run'
    at_epoch(monkeypatch, 2, raises(KeyboardInterrupt()))
    code,_,err = command(capsys, *small, '--epochs', 4, '--out', out)
    assert code==130 and err.strip().splitlines()[-1]=='psm_pretrain: stopped: 2 epochs of PSM are saved. Continue with --resume'
    assert 'Traceback' not in err
    at_epoch(monkeypatch, 0, raises(KeyboardInterrupt()))
    code,_,err = command(capsys, *small, '--epochs', 4, '--out', tmp_path/'other')
    assert code==130 and 'stopped before the first checkpoint. Start it again' in err
    at_epoch(monkeypatch, 99, None)
    code,said,err = command(capsys, *small, '--epochs', 4, '--out', out, '--resume')
    assert code==0 and 'PSM: 4 epochs on 60 images, continuing after 2' in said
    rows = re.findall(r'(\d)\s{9}\d\.\d{6}', said)
    assert rows==['0','1','2','3']          # those from before too
    r = json.loads((out/'run.json').read_text())
    assert [o['epoch'] for o in r['resumed']]==[2] and r['resumed'][0]['hardware']['threads']==torch.get_num_threads() and r['finished']

def test_output_that_goes_to_a_file_has_a_line_an_epoch_and_no_bars(tmp_path, capsys):
    code,said,err = command(capsys, 'digits', '--limit', 60, '--device', 'cpu', '--epochs', 2, '--out', tmp_path/'run')
    lines = said.splitlines()
    head = next(i for i,l in enumerate(lines) if l.startswith('epoch '))
    assert code==0 and '\r' not in said and '█' not in said
    assert lines[head].split()[:3]==['epoch','train_loss','valid_loss'] and lines[head].split()[-2:]==['knn_acc','time']
    rows = [l.split() for l in lines if re.match(r'[01] ', l)]
    assert [r[0] for r in rows]==['0','1'] and all(len(r)==len(lines[head].split()) for r in rows)

@pytest.mark.parametrize('error,code,says', [(OSError(28, 'No room on the disk for c.pth: 2.0 MB are missing'), 1,
                                              'No room on the disk for c.pth: 2.0 MB are missing'),
                                             (MemoryError('x'), 1, 'there is not enough memory (x). Lower --bs'),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, 'there is not enough memory'),
    (ValueError('two\nlines'), 1, 'psm_pretrain: two lines\n')])
def test_errors_in_training_are_one_line(tmp_path, monkeypatch, capsys, error, code, says):
    at_epoch(monkeypatch, 0, raises(error))
    got,_,err = command(capsys, *small, '--epochs', 1, '--out', tmp_path/'run')
    assert got==code and says in err and err.count('\n')==1

def test_bugs_keep_their_traceback(tmp_path, monkeypatch, capsys):
    at_epoch(monkeypatch, 0, raises(ZeroDivisionError('a bug')))
    with pytest.raises(ZeroDivisionError): command(capsys, *small, '--epochs', 1, '--out', tmp_path/'run')

def test_a_folder_removed_meanwhile(tmp_path, monkeypatch, capsys):
    import shutil
    at_epoch(monkeypatch, 0, lambda: shutil.rmtree(tmp_path/'run'))
    code,_,err = command(capsys, *small, '--epochs', 1, '--out', tmp_path/'run')
    assert code==1 and f"The folder {tmp_path/'run'} does not exist, or no longer exists" in err and err.count('\n')==1

@pytest.mark.parametrize('args,says', [(['--lr','1e30'], 'not finite'), (['--bank-size','1e11'], 'bank'),
                                       (['--bank-size','100000000000'], 'bank'), (['--start','nowhere.pth'], 'nowhere.pth')])
def test_settings_that_can_not_work(tmp_path, capsys, args, says):
    code,_,err = command(capsys, *small, '--epochs', 1, '--out', tmp_path/'run', *args)
    assert code in (1,2) and says in err and 'Traceback' not in err

@pytest.mark.posix
def test_results_that_can_not_be_written_are_told_before_the_images_are_looked_for(tmp_path, capsys, monkeypatch):
    (tmp_path/'f').write_text('')
    monkeypatch.setattr(os, 'access', lambda path, mode: Path(path)!=tmp_path)        # the user of a test may write everywhere
    (images := tmp_path/'images').mkdir()
    for out,says in ((tmp_path/'f'/'run', f"{tmp_path/'f'} is a file"), (tmp_path/'new'/'run', f'no right to write into {tmp_path}')):
        code,_,err = command(capsys, images, '--out', out)
        assert code==2 and says in err and err.count('\n')==1

def test_two_runs_into_one_folder(tmp_path, monkeypatch, capsys):
    seen = []
    def second():
        with pytest.raises(ValueError, match='another psm_pretrain is writing to'): run(tmp_path/'run', epochs=1)
        seen.append(1)
    at_epoch(monkeypatch, 0, lambda: seen or second())
    run(tmp_path/'run', epochs=1)
    assert seen and not [f for f in (tmp_path/'run').iterdir() if f.name[0]=='.']

def test_a_finished_run_goes_on_for_more_epochs(tmp_path, capsys):
    out = tmp_path/'run'
    run(out, epochs=1)
    with pytest.raises(ValueError, match='is finished, so there is nothing to resume. For more epochs give --epochs, above 1'):
        run(out, epochs=1, resume=True)
    run(out, epochs=3, resume=True)
    said = capsys.readouterr().out
    assert 'PSM: 3 epochs on 60 images, continuing after 1. Before, it had 1. ' in said
    assert '. Learning rate and momentum are now those of 3 epochs' in said
    assert len(pd.read_csv(out/'history.csv'))==3 and json.loads((out/'run.json').read_text())['epochs']==3
    (out/'checkpoint.pth').unlink()
    with pytest.raises(ValueError,
                       match='is finished and has no checkpoint, so it can.t continue. Begin another one from its weights: --start'):
        run(out, epochs=5, resume=True)

def test_a_folder_goes_on_for_more_epochs(tmp_path):
    "The momentum of few steps fits their number, so that of a longer training is another"
    photos = digit_files(tmp_path/'photos', 60)
    def momentum(epochs, **kwargs):
        learn = pretrain.psm_pretrain(str(photos), epochs=epochs, bs=16, size=16, valid_pct=0., out=tmp_path/'run', **kwargs)
        return learn.psm.settings['momentum']
    assert [momentum(5), momentum(20, resume=True)]==[.5,.833]
    assert len(pd.read_csv(tmp_path/'run'/'history.csv'))==20

def test_images_that_changed_are_told_on_resume(tmp_path, capsys, monkeypatch):
    digit_files(tmp_path/'images', 20, lambda i,y: f'{i:02}.png')
    args = tmp_path/'images','--size',16,'--device','cpu','--out',tmp_path/'run','--epochs'
    assert command(capsys, *args, 1)[0]==0
    (tmp_path/'images/03.png').unlink()
    code,_,err = command(capsys, *args, 2, '--resume')
    assert code==2 and 'on other images: 1 of 20 files is gone' in err and err.count('\n')==1
    assert json.loads((tmp_path/'run/run.json').read_text())['finished']      # nothing was changed

def test_images_that_were_moved_are_compared(tmp_path, capsys):
    digit_files(tmp_path/'lab', 20, lambda i,y: f'{i:02}.png')
    args = '--size',16,'--device','cpu','--out',tmp_path/'run','--epochs'
    assert command(capsys, tmp_path/'lab', *args, 1)[0]==0
    (moved := tmp_path/'moved'/'pics').parent.mkdir()
    (tmp_path/'lab').rename(moved)
    code,said,_ = command(capsys, moved, *args, 2, '--resume')
    assert code==0 and f"The images are those of {tmp_path/'lab'}, and are now in {moved}\n" in said and 'continuing after 1' in said
    assert json.loads((tmp_path/'run/run.json').read_text())['data']==str(moved)
    assert pd.read_parquet(tmp_path/'run/features.parquet').file.str.startswith(str(moved)).all()
    pd.DataFrame(dict(file=sorted(f.name for f in moved.iterdir()))).to_csv(moved/'list.csv', index=False)
    code,said,err = command(capsys, moved/'list.csv', *args, 3, '--resume')
    assert code==0 and f'are now in {moved}{os.sep}list.csv' in said
    Image.fromarray(np.zeros((16,16), np.uint8)).save(moved/'03.png')
    digit_files(tmp_path/'others', 20, lambda i,y: f'x{i:02}.png')
    for other,what in ((moved,'1 of 20 files is not what it was before: 03.png'), (tmp_path/'others','20 of 20 files are gone')):
        code,said,err = command(capsys, other, *args, 4, '--resume')
        assert code==2 and f'on other images: {what}' in err and 'are now in' not in said
    assert json.loads((tmp_path/'run/run.json').read_text())['finished']      # nothing was changed

def test_the_folder_of_an_interrupted_run_says_how_it_goes_on(tmp_path, monkeypatch, capsys):
    out = tmp_path/'run'
    at_epoch(monkeypatch, 1, raises(KeyboardInterrupt()))
    assert command(capsys, *small, '--epochs', 2, '--out', out)[0]==130
    for f in (load_encoder, encoder_from, load_collection, lambda o: image_features(o, [])):
        with pytest.raises(FileNotFoundError, match='If the run was interrupted, give its command again with --resume'): f(out)
        with pytest.raises(FileNotFoundError, match='is not the folder of a run of psm_pretrain'): f(tmp_path)
    at_epoch(monkeypatch, 99, None)
    for start,says in ((out, 'again with --resume'), (out/'checkpoint.pth', 'checkpoint.pth is a checkpoint')):
        code,_,err = command(capsys, *small, '--arch', 'resnet18', '--epochs', 1, '--start', start, '--out', tmp_path/'b')
        assert code==2 and says in err and err.count('\n')==1

def test_a_damaged_checkpoint_and_a_deep_record(tmp_path, capsys):
    out = tmp_path/'run'
    run(out, epochs=1)
    b = bytearray((out/'checkpoint.pth').read_bytes())
    b[len(b)//2] ^= 4
    (out/'checkpoint.pth').write_bytes(b)
    code,_,err = command(capsys, *small, '--epochs', 2, '--out', out, '--resume')
    assert code==2 and 'is not a checkpoint, or it is damaged' in err and err.count('\n')==1
    (out/'run.json').write_text('['*100_000+']'*100_000)
    code,_,err = command(capsys, *small, '--epochs', 2, '--out', out, '--resume')
    assert code==2 and 'is not a record that psm_pretrain wrote' in err and err.count('\n')==1

def test_a_run_begins_from_weights(tmp_path, capsys, monkeypatch):
    run(tmp_path/'a', epochs=1, arch='shufflenet_v2_x0_5', bs=30)
    want = load_encoder(tmp_path/'a').state_dict()
    began = []
    before = pretrain.CheckpointCallback.before_fit
    def look(self): began.append({n: t.clone() for n,t in self.learn.model.encoder.state_dict().items()}); before(self)
    monkeypatch.setattr(pretrain.CheckpointCallback, 'before_fit', look)
    run(tmp_path/'b', epochs=1, start=tmp_path/'a/encoder.safetensors', bs=30)
    run(tmp_path/'c', epochs=1, arch=str(tmp_path/'a'), bs=30)
    torch.save(dict(want, **{'fc.weight': torch.zeros(2,1024)}), tmp_path/'w.pth')
    run(tmp_path/'d', epochs=1, start=tmp_path/'w.pth', arch='shufflenet_v2_x0_5', bs=30)
    assert 'holds weights that shufflenet_v2_x0_5 has no place for: fc.weight' in capsys.readouterr().out
    assert len(began)==3 and all(same(b, want) for b in began)
    assert json.loads((tmp_path/'b/run.json').read_text())['arch']=='shufflenet_v2_x0_5'
    with pytest.raises(ValueError, match='another architecture than small_resnet'): run(tmp_path/'e', epochs=1, start=tmp_path/'w.pth')

def test_without_labels_the_end_tells_whether_anything_was_learned(tmp_path, capsys):
    "Stripes of three directions become groups; noise does not"
    g = np.random.default_rng(0)
    y,x = np.mgrid[:24,:24]
    def stripes(i): return 128 + 100*np.sin((x,y,x+y)[i%3]*.9 + g.uniform(0, 6)) + g.normal(0, 8, (24,24))
    def noise(i): return g.uniform(0, 255, (24,24))
    found = {}
    for name,draw in dict(stripes=stripes, noise=noise).items():
        (tmp_path/name).mkdir()
        save_all(tmp_path/name, [draw(i).clip(0, 255).astype(np.uint8) for i in range(90)], '{:02}.png')
        out = tmp_path/f'of {name}'
        code,said,_ = command(capsys, tmp_path/name, '--size', 24, '--epochs', 12, '--bs', 16, '--valid-pct', 0, '--device', 'cpu', '--out',
                              out)
        assert code==0 and 'Signs without labels' in said and 'Groups of neighbours: ' in said
        found[name] = json.loads((out/'run.json').read_text())['without_labels']
        assert Image.open(out/'before_after.png').size[0]>600
    assert abs(found['noise']['after']['groups'])<.06 and 'Hardly anything was learned' in said
    assert found['stripes']['after']['groups'] > found['noise']['after']['groups']+.1
    code,said,_ = command(capsys, tmp_path/'stripes', '--start', tmp_path/'of stripes', '--size', 24, '--epochs', 1, '--bs', 16,
        '--valid-pct', 0, '--device', 'cpu', '--out', tmp_path/'from weights')
    assert code==0 and 'random    before     after    chance' in said
    signs = json.loads((tmp_path/'from weights/run.json').read_text())['without_labels']
    assert signs['before']==found['stripes']['after']!=signs['random']
