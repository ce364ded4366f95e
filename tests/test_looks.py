"What a person sees: pictures and tables in a notebook"
import re, warnings
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from IPython.core.formatters import IPythonDisplayFormatter
from fastai.vision.all import TensorCategory, set_seed
from psm_fastai import collection
from psm_fastai.all import *
from common import *
from data import Images, loaders

@pytest.fixture(scope='module')
def trained():
    set_seed(0)
    dls = loaders(Images(64, label=lambda i: TensorCategory(i%2)))
    dls.vocab = ['a very long name of a class, the first','a very long name of a class, the other']
    learn = quiet(dls, loss_func=no_loss, cbs=[PSMCallback(bank_size=48, rule='bank', mine_after=0., n_pos=4, n_neg=16), PurityCallback(),
                                               CollapseCallback()])
    learn.fit(2, 1e-3)
    return learn

def shown_by_ipython(o): return IPythonDisplayFormatter()(o)

def test_a_diagnosis_is_told_once(trained, capsys):
    res = trained.diagnose()
    said = capsys.readouterr().out
    assert said and shown_by_ipython(res) is True and capsys.readouterr().out=='' and isinstance(res, dict)

def test_classes_that_begin_alike_have_bars_of_their_own(trained):
    ax = next(a for a in drawn(trained.purity.plot).axes if 'by label' in a.get_title())
    assert len(ax.patches)==2 and len({round(p.get_x(), 3) for p in ax.patches})==2 and len(ax.get_xticklabels())==2
    plt.close('all')

def test_pictures_tell_classes_and_false_negatives(trained):
    id = int(trained.model.bank.ids[0])
    df = trained.explain_loss(id)
    fig = drawn(lambda: trained.show_loss(id, n=6))
    titles = [(a.get_title(),a.get_title() and a.title.get_color()) for a in fig.axes]
    neg = df[df.kind=='negative'].nlargest(6, 'share')
    want = ['✗' if l==df.label.iloc[0] else '✓' for l in neg.label]
    assert [t[0] for t,_ in titles[-6:]]==want and '✗' in want and '✓' in want
    assert any(t.startswith('itself') for t,_ in titles)
    table = mined_neighbours(trained, [id], k=3)
    fig = drawn(lambda: trained.show_neighbours([id], k=3))
    assert [a.get_title().split('\n')[1][:10] for a in fig.axes[1:]]==[l[:10] for l in table.label]
    plt.close('all')

def test_names_in_chinese_and_japanese_are_drawn(monkeypatch, capsys):
    "In a font of the machine. If there is none, it is said once how to get one"
    def draw():
        fig,ax = plt.subplots()
        for t in (ax.set_title('写真.png'), ax.set_xlabel('猫カフェ')): as_written(t)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            fig.canvas.draw()
        plt.close(fig)
        return [w for w in told if 'missing from' in str(w.message)]
    if collection._cjk_fonts(): assert not draw()
    monkeypatch.setattr(collection, 'findSystemFonts', list)
    collection._cjk_fonts.cache_clear()
    capsys.readouterr()
    assert draw() and draw()
    assert capsys.readouterr().out.count('apt install fonts-noto-cjk')==1
    collection._cjk_fonts.cache_clear()

def test_more_pictures_than_fit_are_refused(trained):
    ids = trained.model.bank.ids[:2].tolist()
    for show in (lambda: trained.show_neighbours(ids, k=9999), lambda: trained.show_loss(ids[0], n=9999)):
        with pytest.raises(ValueError, match='would have 20,000 pictures, and 500 are the most'): show()

@pytest.mark.parametrize('channels', [1,2,3,4,12])
def test_views_of_any_number_of_channels_are_shown(channels):
    digit_views().show(torch.rand(2, channels, 16, 16))
    assert len(plt.gcf().axes)==6
    plt.close('all')

def test_an_old_table_of_features_is_refused(tmp_path):
    trained = quiet(digits_dls(bs=16, limit=64), cbs=PSMCallback(bank_size=48))
    im = trained.dls.train_ds[5][0]
    known = trained.features()
    assert trained.nearest(im, n=1, among=known).id[0]==5
    known.to_csv(tmp_path/'t.csv', index=False)
    known.to_parquet(tmp_path/'t.parquet')
    read = pd.read_csv(tmp_path/'t.csv'),pd.read_parquet(tmp_path/'t.parquet')
    for t in read: assert trained.nearest(im, n=1, among=t).id[0]==5
    trained.fit(1, 1e-2)
    for t in (known, known.iloc[:30], *read):
        with pytest.raises(ValueError, match='made by other weights'): trained.nearest(im, n=1, among=t)
    assert trained.nearest(im, n=1, among=trained.features()).id[0]==5

def test_neighbours_before_any_training_are_those_of_the_encoder():
    set_seed(0)
    learn = psm_learner(digits_dls(limit=40, bs=16))
    table = mined_neighbours(learn, ids=[3,7], k=4)
    feats = torch.nn.functional.normalize(learn.features().filter(regex=r'^f\d').pipe(lambda t: torch.tensor(t.to_numpy())), dim=1)
    for i in (3,7): assert table[table['query']==i].id.tolist()==(feats@feats[i]).topk(5).indices[1:].tolist()
    assert table.weight.isna().all() and not len(learn.model.bank)
    axes = drawn(lambda: learn.show_neighbours([3], k=4)).axes
    assert [im.get_alpha() for a in axes for im in a.images]==[1.]*5
    assert axes[0].figure.get_suptitle().startswith('Not trained yet')
    with pytest.raises(ValueError, match='0 to 39'): mined_neighbours(learn, ids=[40])

@pytest.mark.parametrize('ids', [['a.png'], 'a.png', 5, [1.7]], ids=str)
def test_images_are_named_by_whole_numbers(trained, ids):
    untrained = psm_learner(digits_dls(limit=40, bs=16))
    for look in (lambda: mined_neighbours(trained, ids), lambda: mined_neighbours(untrained, ids), lambda: NeighbourHistory(ids=ids)):
        with pytest.raises(TypeError, match=f'ids must be a list of places .* got {re.escape(repr(ids))}'): look()
    with pytest.raises(TypeError, match='ids must be'): trained.show_loss('a.png')
    places = (3,np.int64(3),torch.tensor(3))
    assert [NeighbourHistory(ids=[i]).ids for i in places]==[[3]]*3
