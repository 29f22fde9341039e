use super::*;

fn observed(name: &str) -> String {
    let path = format!(
        "{}/../../testdata/observed/{name}.ipvsadm",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn observed_dumps_are_written_as_they_were_read() {
    for name in ["ipvs-default", "ipvs-masquerade-all", "ipvs-lc-strictarp"] {
        let text = observed(name);
        let services = Services::parse(&text).unwrap();
        assert_eq!(services.to_string(), text);
    }
}

#[test]
fn every_option() {
    let text = "\
-A -f 7 -6 -s wrr -p 300 -M 64 --pe sip -o -b flag-1
-a -f 7 -6 -r [fd00::1]:0 -i --tun-type gue --tun-port 6080 -w 0 -x 10 -y 5
-A -u 10.0.0.1:53 -s sh -p 10 -M 255.255.255.0
-a -u 10.0.0.1:53 -r 10.0.0.2:53 -g -w 3
";
    let services = Services::parse(text).unwrap();
    assert_eq!(services.to_string(), text);
    assert_eq!(services.services[0].destinations[0].upper, 10);
    assert_eq!(
        services.services[1].id.ip(),
        Some("10.0.0.1".parse().unwrap())
    );
}

#[test]
fn errors_name_the_place() {
    let at = |text: &str| {
        let e = Services::parse(text).unwrap_err();
        (e.line, e.column)
    };
    assert_eq!(at("-A -t web:http -s rr"), (1, 7));
    assert_eq!(at("-A -s rr"), (1, 9));
    assert_eq!(at("\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m"), (2, 1));
    assert_eq!(at("-A -t 10.0.0.1:80 -s"), (1, 21));
    assert_eq!(at("*nat"), (1, 1));
    assert_eq!(at("-A -t 10.0.0.1:80 -z 1"), (1, 19));
}

#[test]
fn mutated_dumps_never_panic_and_what_is_read_is_written() {
    let text = observed("ipvs-default");
    let mut seed = 2_u64;
    for _ in 0..3000 {
        let mutated = crate::mutate::mutate(text.as_bytes(), &mut seed);
        if let Ok(text) = std::str::from_utf8(&mutated)
            && let Ok(services) = Services::parse(text)
        {
            let written = services.to_string();
            assert_eq!(Services::parse(&written).as_ref(), Ok(&services), "{text}");
        }
    }
}
