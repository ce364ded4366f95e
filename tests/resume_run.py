"""Trainings of four epochs, for test_checkpoint.py: `train_both` trains in one go and, apart, up to the second epoch.
The second continues in a process of its own: python resume_run.py FOLDER WORKERS SCHEDULE"""
import sys, torch
import machine
from pathlib import Path
from fastai.vision.all import *
from psm_fastai.all import *
from common import silent, tiny, Spy
from data import by_label, digit_files

def learner(path, workers, schedule, name):
    folder = path/'images'
    if not folder.exists(): digit_files(folder, 80, by_label)
    set_seed(0)
    dls = ImageDataLoaders.from_folder(folder, valid_pct=.2, seed=0, bs=16, num_workers=workers,
                                       item_tfms=RandomResizedCrop(20, min_scale=.6),
                                       batch_tfms=[*aug_transforms(max_rotate=5.), Normalize()])
    learn = silent(Learner(dls, tiny(3), cbs=[PSMCallback(bank_size=50, n_pos=3, n_neg=10, momentum=(.9,1.), views=digit_views()),
                                              KNNCallback()], path=path/name))
    learn.add_cbs([SaveModelCallback(monitor='knn_acc'), ReduceLROnPlateau(monitor='train_loss', min_delta=9., patience=1, factor=2.)]
                  if schedule=='fit' else [SaveModelCallback(at_end=True)])
    return learn

def dump(learn, file):
    opt = learn.opt.state_dict()
    res = {f'model.{n}': t for n,t in learn.model.state_dict().items()}
    res.update({f'opt.{i}.{n}': v for i,s in enumerate(opt['state']) for n,v in s.items()}, hypers=[dict(h) for h in opt['hypers']])
    res.update(rng=torch.get_rng_state(), py=random.getstate(), loader=learn.dls.train.rng.getstate(), knn=float(learn.knn.acc),
               valid=learn.recorder.values[-1][1])
    torch.save(res, file)

def stop(cb):
    if cb.epoch==1: raise CancelFitException

def train_both(path, workers, schedule):
    def train(name, **kwargs):
        learn = learner(path, workers, schedule, name)
        getattr(learn, schedule)(4, 3e-3, **kwargs)
        return learn
    dump(train('whole'), path/'whole.pth')
    train('parted', cbs=[CheckpointCallback(path/'c.pth'), Spy(order=80, after_epoch=stop)])

if __name__=='__main__':        # a loader's workers may import this file
    path,workers,schedule = Path(sys.argv[1]),int(sys.argv[2]),sys.argv[3]
    learn,saved = learner(path, workers, schedule, 'parted'),CheckpointCallback(path/'c.pth')
    getattr(learn, schedule)(4, 3e-3, cbs=saved, start_epoch=saved.resume(learn))
    dump(learn, path/'resumed.pth')
