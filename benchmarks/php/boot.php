<?php
// The boot script of the node with this MAC: by its status its installer or its disk.

require __DIR__ . '/lib.php';

header('Content-Type: text/plain');
$mac = strtolower(str_replace('-', ':', $_GET['mac'] ?? ''));
if (filter_var($mac, FILTER_VALIDATE_MAC) === false) {
    refuse(400, 'no MAC address');
}
$node = node_by_mac($mac) ?? refuse(404, 'no such node');
echo "#!ipxe\n";
if (status_of($mac) === 'DONE') {
    echo "exit\n";
} else {
    echo "# install {$node['name']}\n", str_repeat("# as long as a real one is\n", 30);
}
