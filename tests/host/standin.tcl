# A stand-in for vitis-run, vitis_hls, vivado and v++: reads the very scripts that weft generates,
# keeps book of cells, pins and nets, objects to whatever does not exist, and leaves the files that
# the tools leave. The reports are real ones, from $STANDIN_REPORTS.
#
# STANDIN_FAIL=exit|hang|timing, with STANDIN_STEP=<script name>, makes that step fail.

proc setting {name {default ""}} {
  return [expr {[info exists ::env($name)] ? $::env($name) : $default}]
}
proc object {why} { puts "ERROR: \[Standin 1-1\] $why"; exit 1 }
proc copied {report to {change {}}} {
  set in [open [file join [setting STANDIN_REPORTS] $report]]
  set text [string map $change [read $in]]
  close $in
  file mkdir [file dirname $to]
  set out [open $to w]; puts -nonewline $out $text; close $out
}
proc created {path {text "stand-in\n"}} {
  file mkdir [file dirname $path]
  set out [open $path w]; puts -nonewline $out $text; close $out
}
proc flag {arguments name} {
  set at [lsearch -exact $arguments $name]
  if {$at < 0} { object "option $name is missing in: $arguments" }
  return [lindex $arguments [expr {$at + 1}]]
}

# Vitis HLS -----------------------------------------------------------------------------------
proc open_project {args} {
  if {[llength $args] == 2} {
    set ::prj [lindex $args 1]
    file delete -force $::prj
    file mkdir $::prj
  } else {
    if {![file exists [lindex $args 0]]} { object "no project [lindex $args 0]" }
    set ::folder [file dirname [lindex $args 0]]
  }
}
proc set_top {name} { set ::top $name }
proc add_files {args} {
  set path [lindex $args [expr {[lindex $args 0] eq "-tb"}]]
  if {![file exists $path]} { object "add_files: no $path" }
  set flags [flag $args -cflags]
  foreach word $flags {
    if {[string match -I* $word] && ![file isdirectory [string range $word 2 end]]} { object "no $word" }
  }
  if {"-std=c++14" ni $flags} { object "not C++14: $flags" }
  lappend ::files [file tail $path]
}
proc open_solution {reset name target kind} {
  set ::sol [file join $::prj $name]
  if {$kind ni {vivado vitis}} { object "flow_target $kind" }
}
proc set_part {part} { set ::part $part }
proc create_clock {p period n name} { if {$period <= 0} { object "clock $period" } }
proc set_clock_uncertainty {x} {}
proc config_compile {option} { if {$option ne "-pragma_strict_mode"} { object $option } }
proc config_dataflow {option value} {}
proc config_interface {option} {}
proc csim_design {optimize} { puts "PASS" }
proc cosim_design {args} { puts "*** C/RTL co-simulation finished: PASS ***" }
proc csynth_design {} {
  if {[lsort $::files] ne {tb.cpp top.cpp}} { object "files: $::files" }
  puts {INFO: [HLS 200-1470] Pipelining result : Target II = 1, Final II = 1, Depth = 9, loop 'words'}
  puts {INFO: [HLS 200-1470] Pipelining result : Target II = 1, Final II = 2, Depth = 9, loop 'table'}
  puts {WARNING: [HLS 200-885] The II Violation in module 'set_table' (loop 'table')}
  copied hls4ml_myproject_csynth.xml $::sol/syn/report/${::top}_csynth.xml \
    [list xc7z020-clg400-1 [setting STANDIN_PART $::part]]
}
proc export_design {args} {
  if {[flag $args -format] eq "xo"} { created [flag $args -output] } else { created $::sol/impl/ip/component.xml }
}

# Vivado: project -----------------------------------------------------------------------------
proc create_project {name folder args} {
  set ::folder $folder
  file delete -force $folder
  created $folder/$name.xpr
  flag $args -part
}
proc current_project {} { return project }
proc current_fileset {} { return sources_1 }
proc get_board_parts {quiet pattern} { return [setting STANDIN_BOARDS vendor.com:board:part0:1.0] }
proc update_ip_catalog {} {}
proc update_compile_order {args} {}
proc close_project {} {}
proc get_files {name} { return $name }
proc make_wrapper {args} { created $::folder/design_1_wrapper.v }
proc get_ipdefs {quiet pattern} {
  set found {}
  foreach name {processing_system7 zynq_ultra_ps_e smartconnect proc_sys_reset axi_intc} {
    foreach version {3.9 3.10} {
      if {[string match $pattern xilinx.com:ip:$name:$version]} { lappend found xilinx.com:ip:$name:$version }
    }
  }
  return $found
}

# Vivado: block design ------------------------------------------------------------------------
array set cells {}; array set pins {}; array set used {}
proc pin {cell name kind} { set ::pins($cell/$name) $kind }
proc create_bd_design {name} { set ::design $name }
proc create_bd_cell {type ip v vlnv name} {
  if {[info exists ::cells($name)]} { object "cell $name twice" }
  if {[lindex [split $vlnv :] 2] ne "weft_kernel" && ![string match *:3.10 $vlnv]} { object "not the newest: $vlnv" }
  set ::cells($name) [lindex [split $vlnv :] 2]
  switch $::cells($name) {
    weft_kernel {
      foreach n {0 1 2 3} { pin $name m_axi_gmem$n master }
      foreach {p k} {s_axi_control slave ap_clk clock ap_rst_n reset interrupt out} { pin $name $p $k }
    }
    axi_intc { foreach {p k} {s_axi slave s_axi_aclk clock s_axi_aresetn reset intr in irq out} { pin $name $p $k } }
    smartconnect { foreach {p k} {aclk clock aresetn reset} { pin $name $p $k } }
    proc_sys_reset {
      foreach {p k} {slowest_sync_clk clock ext_reset_in in peripheral_aresetn out} { pin $name $p $k }
    }
    processing_system7 { pin $name FCLK_RESET0_N out }
    zynq_ultra_ps_e { pin $name pl_resetn0 out }
  }
}
proc apply_bd_automation {r rule c config cell} {
  if {![string match *:$::cells($cell) $rule]} { object "rule $rule for $cell" }
  if {[dict get $config apply_board_preset] != [setting STANDIN_PRESET 1]} { object "preset: $config" }
}
proc configured {cell key value} {
  set key [string range $key 7 end]
  switch -regexp -matchvar m -- $key {
    {^NUM_SI$} { for {set i 0} {$i < $value} {incr i} { pin $cell [format S%02d_AXI $i] slave } }
    {^NUM_MI$} { for {set i 0} {$i < $value} {incr i} { pin $cell [format M%02d_AXI $i] master } }
    {^PCW_USE_M_AXI_GP0$} { pin $cell M_AXI_GP0 master; pin $cell M_AXI_GP0_ACLK clock }
    {^PCW_USE_S_AXI_HP([0-3])$} {
      pin $cell S_AXI_HP[lindex $m 1] slave; pin $cell S_AXI_HP[lindex $m 1]_ACLK clock
    }
    {^PCW_FPGA_FCLK0_ENABLE$} { pin $cell FCLK_CLK0 out }
    {^PCW_IRQ_F2P_INTR$} { pin $cell IRQ_F2P in }
    {^PSU__FPGA_PL0_ENABLE$} { pin $cell pl_clk0 out }
    {^PSU__USE__IRQ0$} { pin $cell pl_ps_irq0 in }
    {^PSU__USE__M_AXI_GP0$} { pin $cell M_AXI_HPM0_FPD master; pin $cell maxihpm0_fpd_aclk clock }
    {^PSU__USE__S_AXI_GP([2-5])$} {
      set n [expr {[lindex $m 1] - 2}]
      pin $cell S_AXI_HP${n}_FPD slave; pin $cell saxihp${n}_fpd_aclk clock
    }
    {FREQMHZ$} { if {$value < 10 || $value > 1000} { object "clock $value" } }
    {^(PCW_(EN_(CLK|RST)0_PORT|USE_FABRIC_INTERRUPT|S_AXI_HP[0-3]_DATA_WIDTH)|C_IRQ_CONNECTION)$} {}
    {^PSU__(SAXIGP[2-5]__DATA_WIDTH|USE__M_AXI_GP[12])$} {}
    default { object "unknown property $key of $cell" }
  }
}
proc set_property {args} {
  set last [lindex $args end]
  if {![info exists ::cells($last)]} return
  set pairs [expr {[lindex $args 0] eq "-dict" ? [lindex $args 1] : [lrange $args 0 1]}]
  foreach {key value} $pairs { configured $last $key $value }
}
proc get_bd_cells {name} {
  if {![info exists ::cells($name)]} { object "no cell $name" }
  return $name
}
proc get_bd_intf_pins {name} {
  if {![info exists ::pins($name)] || $::pins($name) ni {master slave}} { object "no interface $name" }
  return $name
}
proc get_bd_pins {name} {
  if {![info exists ::pins($name)] || $::pins($name) in {master slave}} { object "no pin $name" }
  return $name
}
proc connect_bd_intf_net {from to} {
  if {$::pins($from) ne "master" || $::pins($to) ne "slave"} { object "$from → $to: wrong way round" }
  foreach name [list $from $to] {
    if {[info exists ::used($name)]} { object "$name is connected twice" }
    set ::used($name) 1
  }
}
proc connect_bd_net {from to} {
  if {$::pins($from) ne "out" || $::pins($to) eq "out"} { object "$from → $to: wrong way round" }
  if {[info exists ::used($to)]} { object "$to has two drivers" }
  if {$::pins($to) eq "clock" && ![regexp {FCLK_CLK0|pl_clk0} $from]} { object "$to: clock from $from" }
  if {$::pins($to) eq "reset" && ![string match *aresetn $from]} { object "$to: reset from $from" }
  set ::used($from) 1
  set ::used($to) 1
}
proc assign_bd_address {} {}
proc validate_bd_design {} {
  foreach name [lsort [array names ::pins]] {
    if {![info exists ::used($name)]} { object "$name is not connected" }
  }
  puts "validated: [array size ::cells] cells, [array size ::pins] pins"
}
proc save_bd_design {} {
  created $::folder/weft_vivado.[setting STANDIN_HANDOFF gen]/sources_1/bd/design_1/hw_handoff/design_1.hwh
}

# Vivado: runs --------------------------------------------------------------------------------
proc get_runs {name} { return $name }
proc get_property {name what} {
  if {$name eq "VLNV"} { return $what }
  set path $::folder/$what.status
  if {![file exists $path]} { return "Not started" }
  set in [open $path]; set text [read $in]; close $in
  return $text
}
proc reset_run {name} { file delete $::folder/$name.status; puts "reset $name" }
proc launch_runs {name args} {
  flag $args -jobs
  created $::folder/synth_1.status "synth_design Complete!"
  created $::folder/impl_1.status "Running route_design..."
  if {[setting STANDIN_FAIL] eq "hang" && [setting STANDIN_STEP] eq "impl"} { puts "hanging [pid]"; flush stdout; after 60000 }
  created $::folder/impl_1.status "write_bitstream Complete!"
  created $::folder/weft_vivado.runs/impl_1/design_1_wrapper.bit
}
proc wait_on_run {name} {}
proc open_run {name} {}
proc report_timing_summary {f path} {
  set change {}
  if {[setting STANDIN_FAIL] eq "timing"} {
    set change [list "All user specified timing constraints are met." "Timing constraints are not met."]
  }
  copied atax_timing_routed.rpt $path $change
}
proc report_utilization {args} {
  copied hls4ml_vivado_synth.rpt [flag $args -file] [list 7z020clg400-1 [setting STANDIN_PART 7z020clg400-1]]
}

# The command line ----------------------------------------------------------------------------
set arguments [lassign $argv tool]
switch $tool {
  vitis-run { set expected {--mode hls --tcl} }
  vitis_hls { set expected {-f} }
  vivado { set expected {-mode batch -notrace -nojournal -source} }
  v++ { set expected {-l -t hw} }
}
if {[lrange $arguments 0 [llength $expected]-1] ne $expected} { object "called as $tool $arguments" }
set script [lindex $arguments [llength $expected]]
set step [file rootname [file tail $script]]
if {[setting STANDIN_CALLS] ne ""} {
  set out [open [setting STANDIN_CALLS] a]; puts $out "$tool $step"; close $out
}
if {$tool eq "v++"} {
  if {![file exists [lindex $arguments end]]} { object "no kernel [lindex $arguments end]" }
  if {![file exists [flag $arguments --config]]} { object "no configuration" }
  flag $arguments --platform
  copied atax_timing_routed.rpt [flag $arguments --report_dir]/link/imp/impl_1_timing_summary_routed.rpt \
    [expr {[setting STANDIN_FAIL] eq "timing" ? {"All user specified timing constraints are met." "Timing constraints are not met."} : {}}]
  created [flag $arguments -o]
  exit 0
}
if {[setting STANDIN_STEP] eq $step} {
  switch [setting STANDIN_FAIL] {
    exit { puts {ERROR: [HLS 200-70] Pre-synthesis failed.}; exit 1 }
    hang { puts "hanging [pid]"; flush stdout; after 60000 }
    silent { exit 0 }
  }
}
if {$tool ne "vivado" && $step ni {run_hls csim cosim}} { object "no HLS script: $script" }
source $script
object "the script does not exit"
