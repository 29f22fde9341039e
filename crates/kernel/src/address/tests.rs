use super::*;

#[test]
fn node_names_are_trimmed_and_lowered() {
    assert_eq!(node_name(Some(" Node-A\n")).unwrap(), "node-a");
    assert!(matches!(node_name(Some("  ")), Err(NodeNameError::Empty)));
    let host = node_name(None).unwrap();
    assert_eq!(host, host.trim().to_lowercase());
    assert_eq!(node_name(Some("")).unwrap(), host);
}
