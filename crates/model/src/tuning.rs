use crate::Compute;
use crate::kernels::matmul::{Sink, matmul};
use crate::kernels::{Buffer, Weights, roof};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

fn best(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut v = vec![];
    while start.elapsed() < Duration::from_millis(60) {
        let s = Instant::now();
        f();
        v.push(s.elapsed());
    }
    v.sort();
    v[v.len() / 2].as_secs_f64()
}
#[test]
#[ignore]
fn tune() {
    for threads in [1, 2] {
        let c = Compute::new(NonZeroUsize::new(threads).unwrap());
        let _f = c.pool().forward();
        for mb in [1, 8, 16, 22, 24, 26, 28, 30, 64] {
            let b = Buffer::zeroed(mb << 18);
            let a = best(|| roof::read(&c, &b, false));
            let p = best(|| roof::read(&c, &b, true));
            println!(
                "{threads} threads read {mb} MB: {:.1} {:.1} GB/s",
                (mb << 20) as f64 / a / 1e9,
                (mb << 20) as f64 / p / 1e9
            );
        }
        for (k, o, n) in [
            (384, 1536, 1),
            (384, 1536, 18),
            (1536, 384, 18),
            (384, 384, 36),
            (384, 1536, 9),
            (1536, 384, 9),
            (128, 512, 1),
            (128, 512, 8),
        ] {
            let ws: Vec<Vec<u16>> = (0..n).map(|_| vec![0x3f80_u16; k * o + 64]).collect();
            print!("{threads} threads {n} x {k}->{o} ({:.1} MB):", (n * k * o * 2) as f64 / 1e6);
            for rows in [1usize, 2, 3, 4, 5, 8, 16, 64] {
                let x = Buffer::zeroed(rows * k);
                let mut y = Buffer::zeroed(rows * o);
                let t = best(|| {
                    for w in &ws {
                        let off = w.as_ptr().align_offset(64);
                        let w = Weights::new(&w[off..][..32 + k * o], o, k);
                        matmul(&c, &w, None, &x, rows, Sink::Natural { out: &mut y, stride: o });
                    }
                });
                print!(
                    "  {rows}: {:.1} GB/s {:.0} GF",
                    (n * k * o * 2) as f64 / t / 1e9,
                    (2 * n * k * o * rows) as f64 / t / 1e9
                );
            }
            println!();
        }
    }
}
#[test]
#[ignore]
fn one_shape() {
    let get = |n: &str, d: usize| std::env::var(n).map_or(d, |t| t.parse().unwrap());
    let (k, o, rows, threads) = (get("K", 384), get("O", 1536), get("R", 5), get("T", 1));
    let c = Compute::new(NonZeroUsize::new(threads).unwrap());
    let _f = c.pool().forward();
    let w = vec![0x3f80_u16; k * o + 64];
    let x = Buffer::zeroed(rows * k);
    let mut y = Buffer::zeroed(rows * o.next_multiple_of(32));
    let off = w.as_ptr().align_offset(64);
    let w = Weights::new(&w[off..][..32 + k * o], o, k);
    let b = vec![0.0; o];
    for _ in 0..20 {
        let t = best(|| {
            for _ in 0..10 {
                matmul(&c, &w, Some(&b), &x, rows, Sink::Add { out: &mut y, stride: o.next_multiple_of(32) });
            }
        });
        println!(
            "{:.2} us {:.1} GF {:.1} GB/s",
            t / 10. * 1e6,
            (20 * k * o * rows) as f64 / t / 1e9,
            (20 * k * o) as f64 / t / 1e9
        );
    }
}
#[test]
#[ignore]
fn steps() {
    use crate::*;
    let get = |n: &str, d: usize| std::env::var(n).map_or(d, |t| t.parse().unwrap());
    let (ctx, rows, threads) = (get("C", 256), get("R", 1), get("T", 2));
    let which = if std::env::var("DRAFT").is_ok() { EmbeddedModel::Draft } else { EmbeddedModel::Target };
    let c = std::sync::Arc::new(Compute::new(NonZeroUsize::new(threads).unwrap()));
    let mut m = Transformer::load(&Source::Embedded(which), c).unwrap();
    let mut cache = m.new_cache();
    if ctx > 0 {
        m.forward(&mut [Rows { cache: &mut cache, tokens: &vec![65; ctx], logits_from: ctx }]).unwrap();
    }
    let roof_buffer = Buffer::zeroed(22 << 18);
    let c2 = m.compute();
    for _ in 0..get("N", 10) {
        let _w = c2.pool().forward();
        let roof = best(|| roof::read(&c2, &roof_buffer, false));
        drop(_w);
        let mut work = None;
        let t = best(|| {
            let f = m.forward(&mut [Rows { cache: &mut cache, tokens: &vec![65; rows], logits_from: 0 }]).unwrap();
            cache.truncate(ctx);
            work = Some(f.work)
        });
        println!(
            "step {:.1} us {:.1} GB/s roof {:.1}",
            t * 1e6,
            work.unwrap().bytes as f64 / t / 1e9,
            (22 << 20) as f64 / roof / 1e9
        );
    }
}
