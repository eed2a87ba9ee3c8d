"""stub"""
import os
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import json, sys, time, traceback, warnings
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1])); sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import verdict_fits as vf, verdict_targets as vt
import pymc_sph; print(pymc_sph.__file__)
warnings.simplefilter("ignore")
out=Path(sys.argv[1]); which=sys.argv[2]
rows=[]
subs={"cal":vt.CALIBRATION,"held":vt.HELD_OUT}.get(which)
names={"calpm":["eight_schools-eight_schools_noncentered","kidiq-kidscore_momiq","low_dim_gauss_mix-low_dim_gauss_mix","garch-garch11"],"heldpm":["nes2000-nes","mesquite-mesquite","arK-arK","gp_pois_regr-gp_regr"]}.get(which)
seeds=[int(x) for x in sys.argv[3].split(",")]
only=sys.argv[4:] 
for t in subs or names:
    if only and not any(o in str(getattr(t,'name',t)) for o in only): continue
    s = vf.exact(t) if subs else vf.carried(t)
    for j,seed in enumerate(seeds):
        began=time.time()
        it=vf.fits(s,seed,bad=j==0)
        while True:
            try:
                name,e=next(it)
                row=vf.measure(s,name,e,seed)
            except StopIteration: break
            except Exception: traceback.print_exc(); break
            from pymc_sph.importance import judge, Evidence
            row["seconds"]=time.time()-began; began=time.time()
            rows.append(row); out.write_text(json.dumps(rows))
            ev=row["evidence"]; v=judge(Evidence(**ev))
            print(f"{s.name:22s} {name:24s} {seed} plain {row['plain']:.3f} w {row['weighted']:.3f} | ess {ev['ess']:.3f} k {ev['pareto_k']:.2f} rhat {ev['r_hat']:.2f} agree {ev['n_agreeing']}/{ev['n_fluids']} err {ev['error']:.3f} left {ev['left']:.3f} unc {ev['uncovered']:.4f} unseen {ev['unseen']:.3f} void {ev['void']:.2f} {ev['status']} el {[round(x-row['log_evidence'],2) for x in row['fluid_elbo']]} st {row['n_steps']} {row['seconds']:.1f}s => {v.grade}",flush=True)
