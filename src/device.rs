//! Where to compute: the choice of a device, the number of threads, the memory allocator, and explanations of why a
//! device cannot be used.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};
use thiserror::Error;

use crate::error::SettingError;
use crate::torch;

/// The device that the user asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else Apple's GPU, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this number; without one, the first.
    Cuda(Option<usize>),
    /// Apple's GPU.
    Mps,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().ok().filter(|n| *n < 128);
        match (text, text.strip_prefix("cuda:")) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(None)),
            ("mps", _) => Ok(Self::Mps),
            (_, Some(n)) if number(n).is_some() => Ok(Self::Cuda(number(n))),
            _ => Err(format!("expected auto, cpu, cuda, cuda:N or mps, found `{text}`")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(n)) => write!(f, "cuda:{n}"),
            Self::Mps => f.write_str("mps"),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl DeviceChoice {
    /// Whether it is a CUDA device.
    pub fn is_cuda(self) -> bool {
        matches!(self, Self::Cuda(_))
    }
}

impl From<Device> for DeviceChoice {
    fn from(device: Device) -> Self {
        match device {
            Device::Cuda(n) => Self::Cuda(Some(n)),
            Device::Mps => Self::Mps,
            // Vulkan is never chosen, so it needs no name of its own.
            Device::Cpu | Device::Vulkan => Self::Cpu,
        }
    }
}

/// The error that this machine has no such device, or cannot use it. That is no wrong usage: elsewhere, or once the
/// reason is gone, the same request is right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("device {choice}: {why}")]
pub struct Unavailable {
    /// What was asked for.
    pub choice: DeviceChoice,
    /// The reason, and what to do.
    pub why: String,
}

/// The device that `choice` means on this machine.
///
/// # Errors
/// [`Unavailable`], if there is no such device; [`SettingError`], if it cannot compute in `kind`. The message says why
/// and what to do.
pub fn resolve(choice: DeviceChoice, kind: Kind) -> Result<Device> {
    let unavailable = |why: String| Err(Unavailable { choice, why }.into());
    let resolved = match choice {
        DeviceChoice::Cpu => Device::Cpu,
        DeviceChoice::Cuda(n) => {
            let cuda = Cuda::look();
            let obstacles = cuda.obstacles();
            if !obstacles.is_empty() {
                return unavailable(obstacles.join("; also, "));
            }
            let n = n.unwrap_or(0);
            if n >= cuda.devices {
                let why = format!("there is no such device; {} found, from cuda:0", cuda.devices);
                return unavailable(why);
            }
            Device::Cuda(n)
        }
        DeviceChoice::Mps => {
            if !tch::utils::has_mps() {
                let why = "this libtorch or this machine has no Apple GPU (Metal); use cpu";
                return unavailable(why.to_owned());
            }
            Device::Mps
        }
        DeviceChoice::Auto if Cuda::look().obstacles().is_empty() => Device::Cuda(0),
        DeviceChoice::Auto if tch::utils::has_mps() && kind == Kind::Float => Device::Mps,
        DeviceChoice::Auto => Device::Cpu,
    };
    if resolved == Device::Mps && kind == Kind::Double {
        let why = "Apple's GPUs have no float64; use precision f32 or device cpu";
        return Err(SettingError::of_value("device", choice, why).into());
    }
    Ok(resolved)
}

/// The default number of threads: what `OMP_NUM_THREADS` says, else the number of physical cores that this process may
/// use.
pub fn default_threads() -> usize {
    threads_of_environment().unwrap_or_else(usable_cores)
}

/// The number of threads that `OMP_NUM_THREADS` asks for.
pub fn threads_of_environment() -> Option<usize> {
    threads_in(&std::env::var("OMP_NUM_THREADS").ok()?)
}

/// The first of the numbers in `list`, which is that of the outermost level.
fn threads_in(list: &str) -> Option<usize> {
    let threads = list.split(',').next()?.trim().parse().ok()?;
    (1..=1024).contains(&threads).then_some(threads)
}

/// The number of physical cores that this process may use, by its affinity and by the quotas of its control groups.
pub fn usable_cores() -> usize {
    // Physical cores and not logical ones: two threads that share a core slow each other's convolutions down.
    let quota = std::thread::available_parallelism().map_or(usize::MAX, std::num::NonZero::get);
    num_cpus::get_physical().min(num_cpus::get()).min(quota).max(1)
}

/// Prepares the process for computing on `threads` CPU threads, and on CUDA in float32 as it is, or with `tf32` in
/// TensorFloat-32, which is faster and whose mantissa has only 10 bits. Call it once, before anything is computed:
/// otherwise libtorch lets float32 convolutions on CUDA use TensorFloat-32.
///
/// If the environment has `NVIDIA_TF32_OVERRIDE` and `tf32` is not asked for, libtorch and CUDA's libraries decide.
///
/// # Errors
/// If libtorch refuses.
pub fn configure(threads: usize, tf32: bool) -> Result<()> {
    // libtorch takes an i32; the configuration has checked the range.
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    // An error means that a pool of threads is running already. Then that one is used.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    keep_freed_memory();
    if tf32 || std::env::var_os("NVIDIA_TF32_OVERRIDE").is_none() {
        torch::allow_tf32(tf32)?;
    }
    Ok(())
}

/// Makes glibc keep the memory that libtorch frees, instead of giving it back to the system and asking for it again at
/// every step.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LARGE: libc::c_int = 1 << 30;
        // SAFETY: mallopt only sets parameters of the allocator, and may be called at any time.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
            libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        }
    }
}

/// The name of the processor where the system tells it, else that of its architecture.
pub fn cpu_name() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field =
        |line: &str| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned());
    cpuinfo.lines().find_map(field).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The instruction sets of the processor that matter for libtorch's kernels, the widest last.
pub fn cpu_capability() -> Vec<&'static str> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags: Vec<&str> = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"))
        .map(|line| line.split_whitespace().collect())
        .unwrap_or_default();
    ["asimd", "sve", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "bf16"]
        .into_iter()
        .filter(|name| flags.contains(name))
        .collect()
}

/// The folder of the libtorch that this process has loaded.
pub fn libtorch_folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let loaded = maps
        .lines()
        .filter_map(|line| Some(Path::new(&line[line.find('/')?..])))
        .find(|path| path.file_name().is_some_and(|name| name == "libtorch_cpu.so"))
        .and_then(Path::parent)
        .map(Path::to_path_buf);
    // Where the system does not list loaded libraries, the folder that the program was linked with.
    loaded.or_else(|| option_env!("DCGAN_LIBTORCH_LIB").map(PathBuf::from))
}

/// Whether this program was made for an archive (`scripts/package.sh`): it looks for libtorch beside itself and knows no
/// folder of the machine that built it. There is no checkout then in which a script could be run.
pub const IN_ARCHIVE: bool = option_env!("DCGAN_LIBTORCH_LIB").is_none();

/// The version of the libtorch that this process has loaded, where its files state it.
pub fn libtorch_version() -> Option<String> {
    let root = libtorch_folder()?.parent()?.to_path_buf();
    let read = |name: &str| std::fs::read_to_string(root.join(name)).ok();
    let from_python = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?.to_owned();
        Some(line.trim_matches(['\'', '"']).to_owned())
    };
    read("build-version")
        .map(|text| text.trim().to_owned())
        .or_else(|| read("version.py").and_then(from_python))
}

/// Which parts of CUDA are in place, from the files to the devices.
#[derive(Debug, Clone)]
pub struct Cuda {
    /// Whether the libtorch in use was built with CUDA: `libtorch_cuda.so` lies beside it.
    pub built: bool,
    /// Whether this executable has loaded that library.
    pub linked: bool,
    /// The newest version of CUDA that the driver supports (13000 for 13.0), or the reason why no driver works.
    pub driver: Result<i32, String>,
    /// How many devices libtorch can use.
    pub devices: usize,
}

/// The version of CUDA that the libtorch of `scripts/setup.sh` was built with.
const NEEDED_CUDA: i32 = 13_000;

impl Cuda {
    /// Probes libtorch, the linking and the driver.
    pub fn look() -> Self {
        let built = libtorch_folder().is_some_and(|lib| lib.join("libtorch_cuda.so").exists());
        let linked = tch::utils::has_cudart();
        let devices =
            if linked { usize::try_from(tch::Cuda::device_count()).unwrap_or(0) } else { 0 };
        Self { built: built || linked, linked, driver: driver_version(), devices }
    }

    /// The reasons why no CUDA device can be used, each with what to do about it. Empty if one can be used.
    pub fn obstacles(&self) -> Vec<String> {
        self.obstacles_of(IN_ARCHIVE)
    }

    /// The same for a program that is `in_archive`, or in a checkout.
    fn obstacles_of(&self, in_archive: bool) -> Vec<String> {
        let mut obstacles = Vec::new();
        if self.devices > 0 {
            return obstacles;
        }
        match &self.driver {
            Err(why) => obstacles.push(why.clone()),
            Ok(version) if *version < NEEDED_CUDA => obstacles.push(format!(
                "the NVIDIA driver supports CUDA {} at most and this libtorch needs {}; update the \
                 driver",
                dotted(*version),
                dotted(NEEDED_CUDA)
            )),
            Ok(_) => {}
        }
        if !self.built {
            let remedy = match in_archive {
                true => "take the archive whose name ends in -cuda, or build from the sources",
                false => "run ./scripts/setup.sh --cuda and build again",
            };
            obstacles.push(format!(
                "this libtorch ({}) was built without CUDA; {remedy}",
                libtorch_folder().unwrap_or_default().display()
            ));
        } else if !self.linked {
            obstacles.push(
                "libtorch_cuda.so is installed, but this executable was linked without it; build again \
                 (cargo build --release)"
                    .to_owned(),
            );
        }
        if obstacles.is_empty() {
            let hidden = match std::env::var("CUDA_VISIBLE_DEVICES") {
                Ok(value) => format!("CUDA_VISIBLE_DEVICES is `{value}`; "),
                Err(_) => String::new(),
            };
            obstacles.push(format!(
                "the driver is installed, but there is no device; {hidden}see what nvidia-smi lists"
            ));
        }
        obstacles
    }
}

/// A version of CUDA as people write it: 13020 → "13.2".
pub fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// The newest version of CUDA that the NVIDIA driver supports, or why no driver works. Asks the driver itself, without
/// libtorch.
fn driver_version() -> Result<i32, String> {
    let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
    let missing = |_| {
        let gpu = if Path::new("/proc/driver/nvidia").exists() {
            "the kernel module is loaded, but its library is not found"
        } else {
            "no NVIDIA driver is installed here"
        };
        format!("{gpu} ({name}); install the driver, or in a container give it the GPUs")
    };
    // SAFETY: libcuda is the driver's own library; loading it runs its constructors, which every
    // CUDA program does. The two functions have the signatures of the CUDA driver API:
    // CUresult cuInit(unsigned), CUresult cuDriverGetVersion(int *).
    unsafe {
        let library = libloading::Library::new(name).map_err(missing)?;
        let odd = |e: libloading::Error| format!("{name} is no CUDA driver ({e})");
        let init: libloading::Symbol<unsafe extern "C" fn(u32) -> i32> =
            library.get(b"cuInit\0").map_err(odd)?;
        let get_version: libloading::Symbol<unsafe extern "C" fn(*mut i32) -> i32> =
            library.get(b"cuDriverGetVersion\0").map_err(odd)?;
        let mut version = 0;
        let status = match init(0) {
            0 => get_version(&raw mut version),
            failed => failed,
        };
        // The driver has threads that keep running, so its library must stay loaded.
        std::mem::forget(library);
        match status {
            0 => Ok(version),
            100 => Err("the NVIDIA driver finds no GPU (CUDA error 100)".to_owned()),
            code => Err(format!(
                "the NVIDIA driver does not start (CUDA error {code}); see what nvidia-smi says"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_parsed_and_printed() {
        for name in ["auto", "cpu", "cuda", "cuda:0", "cuda:7", "mps"] {
            assert_eq!(
                name.parse::<DeviceChoice>().map(|choice| choice.to_string()),
                Ok(name.into())
            );
        }
        assert_eq!(DeviceChoice::from(Device::Cuda(0)).to_string(), "cuda:0");
        for bad in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:999", "CPU"] {
            assert!(bad.parse::<DeviceChoice>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_environment_may_say_how_many_threads() {
        for (text, expected) in [
            ("3", Some(3)),
            (" 8 ", Some(8)),
            ("4,2", Some(4)),
            ("0", None),
            ("", None),
            ("many", None),
            ("99999", None),
        ] {
            assert_eq!(threads_in(text), expected, "{text}");
        }
        assert!((1..=num_cpus::get()).contains(&usable_cores()));
    }

    #[test]
    fn each_obstacle_has_its_own_remedy_and_all_are_told() {
        let ready = Cuda { built: true, linked: true, driver: Ok(13_000), devices: 1 };
        assert!(ready.obstacles().is_empty());
        let no_driver = || Err("no driver".to_owned());
        let cases: [(Cuda, &[&str]); 7] = [
            (
                Cuda { built: false, linked: false, devices: 0, ..ready.clone() },
                &["setup.sh --cuda"],
            ),
            (Cuda { linked: false, devices: 0, ..ready.clone() }, &["build again"]),
            (Cuda { driver: no_driver(), devices: 0, ..ready.clone() }, &["no driver"]),
            (Cuda { driver: Ok(12_080), devices: 0, ..ready.clone() }, &["CUDA 12.8 at most"]),
            (Cuda { devices: 0, ..ready.clone() }, &["nvidia-smi"]),
            // The driver is old, but a device works: libtorch was built for an older CUDA, and nothing is wrong.
            (Cuda { driver: Ok(12_080), ..ready.clone() }, &[]),
            (
                Cuda { built: false, linked: false, driver: no_driver(), devices: 0 },
                &["no driver", "setup.sh --cuda"],
            ),
        ];
        for (cuda, expected) in cases {
            let obstacles = cuda.obstacles_of(false);
            assert_eq!(obstacles.len(), expected.len(), "{obstacles:?}");
            for (obstacle, expected) in obstacles.iter().zip(expected) {
                assert!(obstacle.contains(expected), "{obstacle}");
            }
        }
    }

    #[test]
    fn an_archive_advises_nothing_that_needs_a_checkout() {
        let cuda = Cuda { built: false, linked: false, driver: Ok(13_000), devices: 0 };
        let [told] = &cuda.obstacles_of(true)[..] else { panic!("one obstacle was expected") };
        assert!(told.contains("the archive whose name ends in -cuda"), "{told}");
        assert!(!told.contains("setup.sh"), "{told}");
    }
}
