//! Tests that need another kernel than the host's.

use xtask::vm::Vm;

/// Set in the virtual machine.
const INSIDE: &str = "SLUICE_TEST_IN_VM";

/// Run the body of the named test in its own virtual machine, whose kernel has IPVS. The test fails if
/// the machine does not boot.
pub(crate) fn in_vm(test: &str, body: impl FnOnce()) {
    in_this_vm(test, Vm::default(), body);
}

/// Run the body of the named test in this virtual machine.
pub(crate) fn in_this_vm(test: &str, mut vm: Vm, body: impl FnOnce()) {
    let done = format!("{test}: done in the virtual machine");
    if std::env::var_os(INSIDE).is_some() {
        body();
        println!("{done}");
        return;
    }
    for (name, value) in [(INSIDE, "1"), ("RUST_BACKTRACE", "0")] {
        vm.environment.push((name.to_owned(), value.to_owned()));
    }
    let this = std::env::current_exe().unwrap();
    let words = [test, "--exact", "--nocapture"].map(Into::into);
    let command: Vec<_> = [this.into()].into_iter().chain(words).collect();
    let output = vm.output(&command).unwrap();
    println!("{}", output.text);
    // The last line proves that this test ran and passed.
    assert!(
        output.status == 0 && output.text.contains(&done),
        "see above"
    );
}
