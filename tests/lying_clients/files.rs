//! Files that are cut short, removed and replaced.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use testbed::raw::{Ring, request, with_suffix};

use crate::liar::{Liar, Racing, set, track};
use crate::stage::{BOTH, Case, DATAGRAMS, RINGS, Served, Stage, case};

fn liar(stage: &Stage) -> Liar {
    stage.connect("cmap")
}

fn cut(path: &Path, length: u64) {
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// What a case puts in the place of a file.
type Replace = fn(&Path, &Path);

pub(crate) fn cases() -> Vec<(Served, Vec<Case>)> {
    let mut cases = Vec::new();
    // Mappings end with the page: what remains of the last one is zeros.
    for (number, ring) in ["request", "response", "event"].into_iter().enumerate() {
        for (part, file) in ["header", "data"].into_iter().enumerate() {
            for length in [0, 1, 4096] {
                let name = format!("the {file} file of the {ring} ring with {length} bytes");
                cases.push(case(name, RINGS, move |stage| {
                    let liar = Liar::blind(stage, "cmap", 65536);
                    prepare(&liar);
                    cut(&liar.files()[number * 2 + part], length);
                    liar.wake();
                    stage.others_are_served();
                    if length == 0 {
                        liar.cut();
                    }
                    stage.hold(liar);
                }));
            }
        }
    }
    for length in [0, 1, 8, 23] {
        cases.push(case(format!("a control file of {length} bytes"), DATAGRAMS, move |stage| {
            let liar = liar(stage);
            liar.works();
            cut(&liar.files()[0], length);
            // The counts are the server's to touch, and not the liar's.
            liar.datagrams().1.send(&request(99, &[])).unwrap();
            if length == 0 {
                liar.cut();
            }
            stage.hold(liar);
        }));
    }
    cases.extend([
        case("all files cut and the connection closed", BOTH, |stage| {
            for _ in 0..10 {
                let liar = Liar::blind(stage, "cmap", 65536);
                liar.files().iter().for_each(|path| cut(path, 0));
            }
        }),
        case("all files cut while the reply is on its way", BOTH, |stage| {
            for _ in 0..10 {
                let liar = Liar::blind(stage, "cmap", 65536);
                liar.files().iter().for_each(|path| cut(path, 0));
                liar.wake();
                stage.hold(liar);
            }
        }),
        case("files that shrink and grow while requests are served", RINGS, |stage| {
            let liar = Liar::blind(stage, "cmap", 65536);
            let files: Vec<File> = liar
                .files()
                .iter()
                .map(|path| File::options().read(true).write(true).open(path).unwrap())
                .collect();
            let sizes: Vec<u64> = files.iter().map(|it| it.metadata().unwrap().len()).collect();
            prepare(&liar);
            let mut turn = 0;
            let racing = Racing::start(move || {
                let at = turn / 2 % files.len();
                let length = if turn % 2 == 0 { 0 } else { sizes[at] };
                files[at].set_len(length).unwrap();
                turn += 1;
            });
            for _ in 0..100 {
                liar.wake();
                if liar.is_cut() {
                    break;
                }
            }
            drop(racing);
            stage.hold(liar);
        }),
        case("holes in all files", RINGS, |stage| {
            let liar = liar(stage);
            liar.works();
            for path in liar.files() {
                let file = File::options().write(true).open(path).unwrap();
                let size = file.metadata().unwrap().len().try_into().unwrap();
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(&file, flags, 0, size).unwrap();
            }
            // Its indices are 0 again, and the server's are not.
            liar.put_at(0, &request(99, &[]));
            liar.cut();
        }),
        case("files that grow", BOTH, |stage| {
            let liar = liar(stage);
            liar.files().iter().for_each(|path| cut(path, 1 << 40));
            liar.works();
            stage.hold(liar);
        }),
        case("files that nobody may use", BOTH, |stage| {
            let liar = liar(stage);
            for path in liar.files() {
                fs::set_permissions(path, Permissions::from_mode(0o0)).unwrap();
            }
            fs::set_permissions(liar.directory(), Permissions::from_mode(0o0)).unwrap();
            liar.works();
            stage.hold(liar);
        }),
        case("files with further names", BOTH, |stage| {
            let liar = liar(stage);
            for path in liar.files() {
                fs::hard_link(&path, with_suffix(&path, "-again")).unwrap();
            }
            liar.works();
            stage.hold(liar);
        }),
        case("another directory in place of its own", BOTH, |stage| {
            let liar = liar(stage);
            let (own, aside) = (liar.directory(), stage.folder().join("aside"));
            fs::rename(&own, &aside).unwrap();
            fs::create_dir(&own).unwrap();
            fs::write(own.join("file"), "").unwrap();
            liar.works();
            drop(liar);
            stage.others_are_served();
            testbed::eventually("its files are removed", || {
                fs::read_dir(&aside).is_ok_and(|mut files| files.next().is_none())
            });
            // What it made itself it removes itself.
            fs::remove_dir(&aside).unwrap();
            let _ = fs::remove_dir_all(&own);
        }),
        case("no directory any more", BOTH, |stage| {
            let liar = liar(stage);
            fs::remove_dir_all(liar.directory()).unwrap();
            liar.works();
            stage.hold(liar);
        }),
    ]);
    let replacements: [(&str, Replace); 5] = [
        ("nothing", |path, _| fs::remove_file(path).unwrap()),
        ("a file", |path, _| {
            fs::remove_file(path).unwrap();
            fs::write(path, "rubbish").unwrap();
        }),
        ("a directory", |path, _| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("a fifo", |path, _| {
            fs::remove_file(path).unwrap();
            mkfifo(path, Mode::S_IRWXU).unwrap();
        }),
        ("a link to a file elsewhere", |path, kept| {
            fs::remove_file(path).unwrap();
            symlink(kept, path).unwrap();
        }),
    ];
    for (what, replace) in replacements {
        cases.push(case(format!("{what} in place of each file"), BOTH, move |stage| {
            let elsewhere = tempfile::tempdir().unwrap();
            let kept = elsewhere.path().join("kept");
            fs::write(&kept, "kept").unwrap();
            let liar = liar(stage);
            liar.files().iter().for_each(|path| replace(path, &kept));
            // The server has them open.
            liar.works();
            drop(liar);
            stage.others_are_served();
            assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
        }));
    }
    vec![(Served::Corosync, cases)]
}

/// Puts requests into the request ring that fill all rings: a tracker, and changes that it is told
/// of. They wait for a wake byte. The mapping is gone then: whoever touches a file that is cut
/// dies.
fn prepare(liar: &Liar) {
    let ring = Ring::open(&liar.ring_path(0)).unwrap();
    ring.put(&track("cut."));
    for number in 0..100_u32 {
        ring.put(&set("cut.key", &number.to_ne_bytes()));
    }
}
