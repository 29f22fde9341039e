use super::*;

#[test]
fn back_end_is_chosen_by_hint_then_other_family_then_chains_then_default() {
    let none = Evidence::default();
    let hints = |nft_hints, legacy_hints| Evidence {
        nft_hints,
        legacy_hints,
        ..none
    };
    let chains = |nft_chains, legacy_chains| Evidence {
        nft_chains,
        legacy_chains,
        ..none
    };
    let plain = Some(Backend::Nft);
    let cases = [
        (hints(0, 1), none, Backend::Legacy, Reason::KubeletHint),
        (hints(1, 1), none, Backend::Nft, Reason::KubeletHint),
        (
            chains(9, 0),
            hints(0, 2),
            Backend::Legacy,
            Reason::KubeletHintOtherFamily,
        ),
        (chains(1, 3), none, Backend::Legacy, Reason::KubeChains),
        (chains(3, 1), none, Backend::Nft, Reason::KubeChains),
        (chains(2, 2), none, Backend::Nft, Reason::PlainTool),
    ];
    for (own, other, backend, reason) in cases {
        let choice = choose(own, other, plain);
        assert_eq!(choice, Choice { backend, reason }, "{own:?} {other:?}");
    }
    assert_eq!(
        choose(none, none, None),
        Choice {
            backend: Backend::Nft,
            reason: Reason::Default
        }
    );
}
