//! Launches with one thing wrong, by the name in `SEQPAR_BROKEN_LAUNCH`: mutants of the host's side
//! that need no compilation (`tests/mutants.rs`).

use std::borrow::Cow;

use seqpar::kernel::cuda::{Launch, Swizzle, TensorMap};

/// The launch as it is, or broken as the environment says.
pub fn launch_or_broken(launch: &Launch) -> Cow<'_, Launch> {
    match std::env::var("SEQPAR_BROKEN_LAUNCH") {
        Ok(fault) => Cow::Owned(broken(launch.clone(), &fault)),
        Err(_) => Cow::Borrowed(launch),
    }
}

fn broken(mut launch: Launch, fault: &str) -> Launch {
    match fault {
        "16 bytes of shared memory too few" => launch.shared_bytes = launch.shared_bytes.saturating_sub(16),
        "half the shared memory" => launch.shared_bytes /= 2,
        "a warp too few" => launch.block[0] -= 32,
        "a warp too many" => launch.block[0] += 32,
        "the last block missing" => launch.grid[0] = (launch.grid[0] - 1).max(1),
        "grid x and y exchanged" => launch.grid.swap(0, 1),
        "grid y and z exchanged" => launch.grid.swap(1, 2),
        "no grid y" => launch.grid[1] = 1,
        _ => launch.maps.iter_mut().for_each(|(_, map)| break_map(map, fault)),
    }
    launch
}

fn break_map(map: &mut TensorMap, fault: &str) {
    match fault {
        "maps: next swizzle" => {
            map.swizzle = match map.swizzle {
                Swizzle::None | Swizzle::B32 => Swizzle::B64,
                Swizzle::B64 => Swizzle::B128,
                Swizzle::B128 => Swizzle::B64,
            }
        }
        "maps: boxes of half the columns" => map.boxes[0] /= 2,
        "maps: boxes of a row less" => map.boxes[1] -= 1,
        "maps: a column less" => map.dims[0] = (map.dims[0] - 8).max(8),
        "maps: columns up to the whole block" => map.dims[0] = map.dims[0].next_multiple_of(64),
        "maps: a row less" => map.dims[1] = (map.dims[1] - 1).max(1),
        "maps: a row more" => map.dims[1] += 1,
        "maps: rows 16 bytes closer" => map.strides_bytes[0] -= 16,
        "maps: row and head strides exchanged" => map.strides_bytes.swap(0, 1),
        "maps: head and sample strides exchanged" => map.strides_bytes.swap(1, 2),
        "maps: 16 bytes further on" => map.address += 16,
        _ => panic!("SEQPAR_BROKEN_LAUNCH: no fault is called \"{fault}\""),
    }
}
