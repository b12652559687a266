//! x
use seqpar::dit::models::*;
use seqpar::exec::sim::*;
use seqpar::mesh::Mesh;
use seqpar::plan::*;
use seqpar::strategy::*;
use std::time::Instant;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let ranks: usize = a[1].parse().unwrap();
    let name = &a[2];
    let tokens: usize = a[3].parse().unwrap();
    let m = Model::named(name).unwrap();
    let mut s = m.sizes();
    if tokens > 0 {
        s.tokens = tokens;
    }
    let p = m.layer(&m.kinds[0], &s, ranks).unwrap();
    let mesh = Mesh::new(8, ranks / 8).unwrap();
    let t = Instant::now();
    let n = 16.min(ranks);
    let plans: Vec<Plan> =
        (0..n).map(|r| layer_rank(&p, Strategy::Usp, &mesh, &Options::default(), r * ranks / n).unwrap()).collect();
    let b = t.elapsed().as_secs_f64() / n as f64;
    println!("build {:.4} s a rank, {} ops, {} accesses", b, plans[0].ops.len(), plans[0].accesses.len());
    let t = Instant::now();
    let checked: Vec<_> = plans.into_iter().map(|p| check(p).unwrap()).collect();
    println!("check {:.4} s a rank, edges {}", t.elapsed().as_secs_f64() / n as f64, checked[0].edges().len());
    if a.len() > 4 {
        let machine = SimMachine::named("h100x8-ib").unwrap();
        drop(checked);
        let t = Instant::now();
        let all = layer(&p, Strategy::Usp, &mesh, &Options::default()).unwrap();
        println!("build all {:.2}", t.elapsed().as_secs_f64());
        let t = Instant::now();
        let all = check_world(all).unwrap();
        println!("check world {:.2}", t.elapsed().as_secs_f64());
        let t = Instant::now();
        let mut w = World::new(&machine, SimOptions::default());
        for c in &all {
            w.push(c).unwrap();
        }
        println!("programs {:.2}", t.elapsed().as_secs_f64());
        let t = Instant::now();
        let f = w.figures().unwrap();
        println!("simulate {:.2}: wall {} us", t.elapsed().as_secs_f64(), f.wall_ns / 1000);
    }
}
