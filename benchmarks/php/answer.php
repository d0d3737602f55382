<?php
// The answer for the installer that lists a MAC of a node of the file; no leave, no record of it.

require __DIR__ . '/lib.php';

header('Content-Type: application/toml');
$request = json_decode(file_get_contents('php://input'), true);
$node = null;
foreach ($request['network_interfaces'] ?? [] as $nic) {
    $node ??= node_by_mac(strtolower($nic['mac'] ?? ''));
}
$node ??= refuse(404, 'no such node');
echo "[global]\nfqdn = \"{$node['name']}.example.net\"\n", str_repeat("# as long as a real one\n", 40);
