//! Cargo passes no linker arguments on to dependent crates, so this takes over those of dcgan.

fn main() {
    for (_, argument) in std::env::vars().filter(|(name, _)| name.starts_with("DEP_DCGAN_LINK_ARG")) {
        println!("cargo:rustc-link-arg={argument}");
    }
}
