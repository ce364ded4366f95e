"""kNN evaluation of 10,000 images against 50,000, 512 features: ours, the bare matrix products, scikit-learn; and our peak memory

python benchmarks/knn.py
"""
import statistics, warnings
warnings.filterwarnings('ignore')
import numpy as np, torch, torch.nn.functional as F
from fastcore.script import call_parse
from sklearn.neighbors import KNeighborsClassifier
from psm_fastai.evaluate import knn_predict
from bench import in_turn, ratio, save

@call_parse
def main(
    n:int=50000, # Images that vote
    m:int=10000, # Images that are classified
    dim:int=512, # Features
    rounds:int=3, # Measurements of each
    sklearn_m:int=1000, # Images that scikit-learn classifies, a share of `m`, since it is slow
):
    g = torch.Generator().manual_seed(0)
    train,test,y = torch.randn(n, dim, generator=g),torch.randn(m, dim, generator=g),torch.randint(10, (n,), generator=g)
    train += 3*torch.eye(dim)[y]
    a,b = F.normalize(train, dim=1),F.normalize(test, dim=1)
    def products():
        for q in b.split(1024): q @ a.T
    skl = KNeighborsClassifier(n_neighbors=20, metric='cosine', weights=lambda d: np.exp((1-d)/.1)).fit(train.numpy(), y.numpy())
    same = (knn_predict(train, y, test[:sklearn_m]).numpy()==skl.predict(test[:sklearn_m].numpy())).mean()
    def share(): skl.predict(test[:sklearn_m].numpy())
    t = in_turn(rounds, ours=lambda: knn_predict(train, y, test), products=products, sklearn=share)
    t['sklearn'] = [s*m/sklearn_m for s in t['sklearn']]
    over,skl_over = ratio(t['ours'], t['products']),ratio(t['sklearn'], t['ours'])
    print(f"ours {statistics.median(t['ours']):.1f} s, {over['ratio']:.2f} ({over['low']:.2f} to {over['high']:.2f}) times the matrix products; scikit-learn {skl_over['ratio']:.1f} times ours (extrapolated from {sklearn_m} images); same answers: {same:.4f}")
    save('knn', [dict(n=n, m=m, dim=dim, seconds=t, over_products=over, sklearn_over_ours=skl_over, same=float(same))])
