"Trains in one go and, apart, up to the second of four epochs (`both`), or goes on from there (`resumed`): python resume_run.py FOLDER WORKERS SCHEDULE PART"
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from fastai.vision.all import *
from psm_fastai.all import *
from common import silent, tiny, Spy

path,workers,schedule,part = Path(sys.argv[1]),int(sys.argv[2]),sys.argv[3],sys.argv[4]

def learner(name):
    folder = path/'images'
    if not folder.exists():
        for i,(im,y) in enumerate(digits_dls(limit=120).train_ds):
            (folder/str(int(y))).mkdir(parents=True, exist_ok=True)
            im.save(folder/str(int(y))/f'{i}.png')
    set_seed(0)
    dls = ImageDataLoaders.from_folder(folder, valid_pct=.2, seed=0, bs=16, num_workers=workers, item_tfms=RandomResizedCrop(20, min_scale=.6), batch_tfms=[*aug_transforms(max_rotate=5.), Normalize()])
    learn = silent(Learner(dls, tiny(3), cbs=[PSMCallback(bank_size=50, k=3, n_neg=10, momentum=(.9,1.), views=digit_views()), KNNCallback()], path=path/name))
    learn.add_cbs([SaveModelCallback(monitor='knn_acc'), ReduceLROnPlateau(monitor='train_loss', min_delta=9., patience=1, factor=2.)] if schedule=='fit' else [SaveModelCallback(at_end=True)])
    return learn

def train(name, **kwargs):
    learn = learner(name)
    getattr(learn, schedule)(4, 3e-3, **kwargs)
    return learn

def dump(learn, name):
    opt = learn.opt.state_dict()
    res = {f'model.{n}': t for n,t in learn.model.state_dict().items()}
    res.update({f'opt.{i}.{n}': v for i,s in enumerate(opt['state']) for n,v in s.items()}, hypers=[dict(h) for h in opt['hypers']])
    res.update(rng=torch.get_rng_state(), py=random.getstate(), loader=learn.dls.train.rng.getstate(), knn=float(learn.knn.acc), valid=learn.recorder.values[-1][1])
    torch.save(res, path/f'{name}.pth')

def stop(cb):
    if cb.epoch==1: raise CancelFitException

if __name__=='__main__':        # a loader's workers may import this file
    if part=='both':
        dump(train('whole'), 'whole')
        train('parted', cbs=[CheckpointCallback(path/'c.pth'), Spy(order=80, after_epoch=stop)])
    else:
        learn,saved = learner('parted'),CheckpointCallback(path/'c.pth')
        getattr(learn, schedule)(4, 3e-3, cbs=saved, start_epoch=saved.resume(learn))
        dump(learn, 'resumed')
